/* NetBSD's interrupt priorities on i386: the pointer is in the CPU's area itself, and a trap frame is left by iret. */
#include "asm.h"
#define ILEVEL 0x1c
#define IPENDING 0x20
#define VCPU 0xf8
#define SOURCES 0x30
#define CLI(reg) movl %fs:VCPU, reg; movb $1, MASK(reg)
#define STI(reg) movl %fs:VCPU, reg; movb $0, MASK(reg)

	.text
FUNC(force_callback)
	push	%ebx
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
	pop	%ebx
	ret
END(force_callback)

FUNC(x86_enable_intr)
	movl	%fs:VCPU, %eax
	movb	$0, MASK(%eax)			# SITE unmask fence=lock_add/inline/after/all:removable verdict=removable tests=all hazards=none
	lock addl $0, -4(%esp)
	cmpb	$0, (%eax)			# SITE pending-test
	jne	force_callback
	ret
END(x86_enable_intr)

FUNC(x86_read_psl)
	movl	%fs:VCPU, %eax
	movzbl	MASK(%eax), %eax		# SITE save
	ret
END(x86_read_psl)

FUNC(x86_write_psl)
	movl	4(%esp), %edx
	movl	%fs:VCPU, %eax
	movb	%dl, MASK(%eax)			# SITE restore tests=all hazards=none
	cmpb	$0, (%eax)			# SITE pending-test
	je	1f
	test	%edx, %edx
	jne	1f
	call	force_callback
1:	ret
END(x86_write_psl)

/* PUSHF and POPF of a copy routine. */
FUNC(cpu_counter_masked)
	movl	%fs:VCPU, %eax
	movzbl	MASK(%eax), %eax		# SITE save
	push	%eax
	CLI(%eax)				# SITE mask hazards=none
	incl	counter
	pop	%ecx
	movl	%fs:VCPU, %eax
	movb	%cl, MASK(%eax)			# SITE restore tests=all hazards=none
	testb	%cl, %cl
	jne	1f
	testb	$0xff, (%eax)			# SITE pending-test
	je	1f
	call	stipending
1:	ret
END(cpu_counter_masked)

FUNC(Xspllower)
	push	%ebp
	mov	%esp, %ebp
	push	%ebx
	push	%esi
	push	%edi
	mov	8(%ebp), %ebx
	mov	$.Lspllower_resume, %esi
1:
.Lspllower_resume:
	CLI(%eax)				# SITE mask hazards=none
	movl	%fs:VCPU, %eax
	movb	MASK(%eax), %al			# SITE mask-test
	andb	%al, %al
	je	.Lspllower_panic
	mov	%ebx, %eax
	and	%fs:IPENDING, %eax
	je	2f
	bsr	%eax, %eax
	btr	%eax, %fs:IPENDING
	movl	%fs:SOURCES(,%eax,4), %eax
	jmp	*0x10(%eax)
2:	mov	%ebx, %fs:ILEVEL
	STI(%eax)				# SITE unmask tests=all hazards=none
	testb	$0xff, (%eax)			# SITE pending-test
	je	4f
	call	stipending
	test	%eax, %eax
	jne	1b
4:	pop	%edi
	pop	%esi
	pop	%ebx
	leave
	ret
.Lspllower_panic:
	add	$8, %esp
	push	$message
	call	panic
END(Xspllower)

FUNC(Xdoreti)
.Ldoreti_stic:
	mov	$.Ldoreti_resume, %esi
.Ldoreti_resume:
	mov	%ebx, %eax
	and	%fs:IPENDING, %eax
	je	2f
	bsr	%eax, %eax
	btr	%eax, %fs:IPENDING
	movl	%fs:SOURCES(,%eax,4), %eax
	jmp	*0x14(%eax)
2:	mov	%ebx, %fs:ILEVEL
5:	testb	$3, 0x38(%esp)
	jne	doreti_checkast
	jmp	6f
	.globl	doreti_checkast
doreti_checkast:
	cmpl	$0, %fs:0x60
	je	6f
	STI(%eax)				# SITE unmask tests=none hazards=no-pending-test
	movl	$33, 0x2c(%esp)
	push	%esp
	call	trap
	add	$4, %esp
	CLI(%eax)				# SITE mask hazards=none
	jmp	5b
6:	STI(%eax)				# SITE unmask tests=all hazards=none
	testb	$0xff, (%eax)			# SITE pending-test
	je	4f
	call	stipending
	test	%eax, %eax
	je	4f
	CLI(%eax)				# SITE mask hazards=none
	jmp	.Ldoreti_stic
4:	popal
	add	$8, %esp
	iret
END(Xdoreti)

FUNC(stipending)
	push	%ebx
	push	%edi
	xor	%edi, %edi
	movl	%fs:VCPU, %ebx
	jmp	2f
1:	movb	$1, MASK(%ebx)			# SITE mask hazards=none
	movb	$0, (%ebx)			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	xor	%eax, %eax
	xchg	%eax, SELECTOR32(%ebx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	or	%eax, %edi
	call	x86_enable_intr
2:	cmpb	$0, (%ebx)			# SITE pending-test
	jne	1b
	mov	%edi, %eax
	pop	%edi
	pop	%ebx
	ret
END(stipending)

FUNC(trap)
	incl	counter
	ret
END(trap)

FUNC(panic)
1:	hlt
	jmp	1b
END(panic)

	.data
counter: .long	0
message: .asciz	"unmasked"
	.section .note.GNU-stack, "", @progbits
