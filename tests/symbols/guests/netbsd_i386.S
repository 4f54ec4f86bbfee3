/* As NetBSD does it on i386: %fs:SELF, arguments on the stack and in registers. */
#include "asm.h"
#define SELF 0x10
#define CI_DEPTH 0x84
#define CI_VCPU 0x158

	.text
FUNC(x86_lfence)
	lock addl $0, -4(%esp)
	ret
END(x86_lfence)

FUNC(x86_mfence)
	mfence
	ret
END(x86_mfence)

FUNC(force_callback)
	push	%ebx
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	call	HYPERCALL(XEN_VERSION)	# SITE force-callback
	pop	%ebx
	ret
END(force_callback)

FUNC(mask_tail)
	mov	%fs:SELF, %eax
	mov	CI_VCPU(%eax), %eax
	movb	$1, MASK(%eax)		# SITE mask fence=lock_add/tail-jump/after/all:removable verdict=removable
	jmp	x86_lfence
END(mask_tail)

FUNC(unmask_callee)
	push	%ebx
	mov	%fs:SELF, %eax
	mov	CI_VCPU(%eax), %ebx
	movb	$0, MASK(%ebx)		# SITE unmask fence=lock_add/callee/after/all verdict=removable tests=all
	call	x86_lfence
	cmpb	$0, (%ebx)		# SITE pending-test
	pop	%ebx
	jne	force_callback
	ret
END(unmask_callee)

FUNC(unmask_spilled)
	push	%ebp
	mov	%esp, %ebp
	sub	$0x18, %esp
	mov	%fs:SELF, %eax
	mov	CI_VCPU(%eax), %eax
	mov	%eax, -0xc(%ebp)
	movb	$0, MASK(%eax)		# SITE unmask fence=mfence/callee/after/all verdict=removable tests=all
	call	x86_mfence
	mov	-0xc(%ebp), %eax
	cmpb	$0, (%eax)		# SITE pending-test
	leave
	jne	force_callback
	ret
END(unmask_spilled)

FUNC(restore_stack_argument)
	push	%ebp
	mov	%esp, %ebp
	push	%ebx
	mov	%fs:SELF, %eax
	mov	8(%ebp), %edx
	mov	CI_VCPU(%eax), %ebx
	mov	%dl, MASK(%ebx)		# SITE restore fence=lock_add/callee/after/all verdict=removable tests=all
	call	x86_lfence
	movzbl	(%ebx), %eax		# SITE pending-test
	test	%al, %al
	je	1f
	call	force_callback
1:	pop	%ebx
	pop	%ebp
	ret
END(restore_stack_argument)

/* The vcpu_info as an argument on the stack. */
FUNC(unmask_stack_argument)
	push	%ebx
	mov	8(%esp), %ebx
	movb	$0, MASK(%ebx)		# SITE unmask tests=all
	cmpb	$0, (%ebx)		# SITE pending-test
	pop	%ebx
	jne	force_callback
	ret
END(unmask_stack_argument)

FUNC(unmask_pushes)
	mov	%fs:SELF, %eax
	push	CI_VCPU(%eax)
	call	unmask_stack_argument
	add	$4, %esp
	ret
END(unmask_pushes)

/* And in %eax (regparm). */
FUNC(mask_register_argument)
	movb	$1, MASK(%eax)		# SITE mask
	ret
END(mask_register_argument)

FUNC(mask_passes)
	mov	%fs:SELF, %eax
	mov	CI_VCPU(%eax), %eax
	jmp	mask_register_argument
END(mask_passes)

FUNC(save_and_mask)
	mov	%fs:SELF, %eax
	mov	CI_VCPU(%eax), %edx
	movzbl	MASK(%edx), %eax	# SITE save
	movb	$1, MASK(%edx)		# SITE mask
	ret
END(save_and_mask)

FUNC(send_to_cpu)
	mov	4(%esp), %eax
	mov	CI_VCPU(%eax), %edx
	lock btsl $0, (%edx)		# SITE pending-set fence=lock_bts/inline/access:keep verdict=keep width=4
	ret
END(send_to_cpu)

FUNC(do_events)
	push	%ebx
	mov	%fs:SELF, %eax
	mov	CI_VCPU(%eax), %ebx
1:	movb	$0, (%ebx)		# SITE pending-clear
	xor	%eax, %eax
	xchg	%eax, SELECTOR32(%ebx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	cmpb	$0, (%ebx)		# SITE pending-test
	jne	1b
	pop	%ebx
	ret
END(do_events)

FUNC(return_to_guest)
	mov	%fs:SELF, %esi
	mov	CI_VCPU(%esi), %esi
	movb	$0, MASK(%esi)		# SITE unmask hazards=no-pending-test? exit=yes
	pop	%esi
	iretl
END(return_to_guest)

/* The clock reads at offset 32 here too. */
FUNC(clock_read)
	mov	%fs:SELF, %eax
	mov	CI_VCPU(%eax), %edx
1:	mov	32(%edx), %ecx
	lock addl $0, -4(%esp)
	mov	48(%edx), %eax
	cmp	%ecx, 32(%edx)
	jne	1b
	ret
END(clock_read)
	.section .note.GNU-stack, "", @progbits
