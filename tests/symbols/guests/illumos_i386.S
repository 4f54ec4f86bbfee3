/* As illumos does it on i386: hypercalls by int $0x82. */
#include "asm.h"
#define VCPU_INFO 0x18
#define HYPERCALL_TRAP int $0x82

	.text
FUNC(sti)
	mov	%gs:VCPU_INFO, %ecx
	movw	$0x100, %ax
	movw	$0, %bx
	lock cmpxchgw %bx, (%ecx)	# SITE unmask fence=lock_cmpxchg/inline/access/all:replaceable verdict=replaceable width=2 tests=all callbacks=yes
	jz	7f
	movl	$29, %eax
	movl	$1, %ebx
	HYPERCALL_TRAP			# SITE force-callback
7:	ret
END(sti)

FUNC(sti_plain)
	mov	%gs:VCPU_INFO, %ecx
	movb	$0, MASK(%ecx)		# SITE unmask tests=all callbacks=yes
	testb	$0xff, (%ecx)		# SITE pending-test
	jz	7f
	push	%ebx
	movl	$XEN_VERSION, %eax
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	HYPERCALL_TRAP			# SITE force-callback
	pop	%ebx
7:	ret
END(sti_plain)

FUNC(cli)
	mov	%gs:VCPU_INFO, %eax
	movb	$1, MASK(%eax)		# SITE mask
	ret
END(cli)

/* Another trap is none of Xen's. */
FUNC(another_trap)
	movl	$XEN_VERSION, %eax
	int	$0x80
	ret
END(another_trap)

FUNC(callback)
	mov	%gs:VCPU_INFO, %ecx
1:	movb	$0, (%ecx)		# SITE pending-clear fence=xchg/inline/after/all:keep verdict=keep
	xor	%eax, %eax
	xchg	%eax, SELECTOR32(%ecx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	testb	$1, (%ecx)		# SITE pending-test
	jnz	1b
	ret
END(callback)
	.section .note.GNU-stack, "", @progbits
