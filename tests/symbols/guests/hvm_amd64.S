/* An HVM guest: takes events by vector, asks for the version, does not access the mask. */
#include "asm.h"

	.text
FUNC(hvm_vector)
	push	%rax
	push	%rdi
	mov	HYPERVISOR_shared_info(%rip), %rdi
	mov	0x800(%rdi), %rax
	lock btr %rax, 0x800(%rdi)
	pop	%rdi
	pop	%rax
	iretq
END(hvm_vector)

FUNC(version)
	xor	%edi, %edi
	lea	-16(%rsp), %rsi
	mov	$1, %edi
	call	HYPERCALL(XEN_VERSION)
	ret
END(version)

FUNC(set_flag)
	mov	%gs:0x20, %rax
	mov	0x2a8(%rax), %rax
	movl	$1, 4(%rax)
	mfence
	ret
END(set_flag)

FUNC(device)
	movb	$1, 1(%rdi)
	movb	$0, 1(%rsi)
	lfence
	ret
END(device)

	.data
	.balign 8
	.type HYPERVISOR_shared_info, @object
HYPERVISOR_shared_info:	.quad 0
	.size HYPERVISOR_shared_info, 8
	.section .note.GNU-stack, "", @progbits
