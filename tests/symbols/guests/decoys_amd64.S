/* Code that looks like a site but is not one, and some real sites. */
#include "asm.h"
#define SELF 0x20
#define CI_VCPU 0x2a8
#define CI_SOFTC 0x300

	.text
FUNC(honest)
	push	%rbx
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rbx
	movb	$1, MASK(%rbx)		# SITE mask
	call	ring_push
	movb	$0, MASK(%rbx)		# SITE unmask tests=all
	cmpb	$0, (%rbx)		# SITE pending-test
	pop	%rbx
	jne	force_callback
	ret
END(honest)

FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(force_callback)

FUNC(handler)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rdx
	movb	$0, (%rdx)		# SITE pending-clear
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	ret
END(handler)

/* A byte at offset 1 of an argument's struct. */
FUNC(set_flag)
	movb	$1, 1(%rdi)
	ret
END(set_flag)

FUNC(clear_flag)
	movb	$0, 1(%rdi)
	lfence
	cmpb	$0, (%rdi)
	je	1f
	ret
1:	jmp	set_flag
END(clear_flag)

/* A string being built. */
FUNC(put_dash)
	movb	$0x2d, 1(%rsi)
	movb	$0, 2(%rsi)
	ret
END(put_dash)

/* Another field of the same cpu_info. */
FUNC(softc_flag)
	mov	%gs:SELF, %rax
	mov	CI_SOFTC(%rax), %rax
	movb	$1, 1(%rax)
	ret
END(softc_flag)

/* Another struct, whose pointer is at the same offset as the vcpu field. */
FUNC(device_flag)
	mov	device_list(%rip), %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, 1(%rax)
	mfence
	ret
END(device_flag)

FUNC(device_argument)
	mov	CI_VCPU(%rdi), %rax
	mov	0x40(%rax), %rdx
	movb	$0, 1(%rdx)
	ret
END(device_argument)

/* A task that the per-CPU pointer points to, and its field at the same offset. */
FUNC(task_flag)
	mov	%gs:0x28, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, 1(%rax)
	ret
END(task_flag)

/* The stack. */
FUNC(local_bytes)
	sub	$16, %rsp
	movb	$1, 1(%rsp)
	movb	$0, (%rsp)
	lfence
	cmpb	$0, (%rsp)
	add	$16, %rsp
	ret
END(local_bytes)

/* The clock: a sequence lock over the time area of the same vcpu_info. */
FUNC(clock_read)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rdi
1:	mov	32(%rdi), %ecx
	lfence
	test	$1, %cl
	jne	1b
	mov	48(%rdi), %rax
	lfence
	cmp	%ecx, 32(%rdi)
	jne	1b
	ret
END(clock_read)

/* The arch part of the vcpu_info: not an event field. */
FUNC(fault_address)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	mov	16(%rax), %rax
	ret
END(fault_address)

FUNC(ring_push)
	mov	ring(%rip), %rdi
	mov	%esi, 16(%rdi)
	mfence
	incl	(%rdi)
	lfence
	mov	8(%rdi), %eax
	ret
END(ring_push)

FUNC(spin_lock)
	mov	$1, %eax
1:	xchg	%al, (%rdi)
	test	%al, %al
	jne	1b
	ret
END(spin_lock)

FUNC(set_bit)
	lock btsq $0, (%rdi)
	ret
END(set_bit)

	.data
	.balign 8
device_list:	.quad 0
ring:	.quad 0
	.section .note.GNU-stack, "", @progbits
