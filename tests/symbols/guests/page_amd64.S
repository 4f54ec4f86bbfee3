/*
 * shared_info as a page defined in the kernel's assembly, under the name that other kernels give to a
 * pointer; the symbol has neither type nor size.
 */
#include "asm.h"

	.text
FUNC(early_mask)
	movb	$1, HYPERVISOR_shared_info+MASK(%rip)	# SITE mask fence=mfence/inline/after/all verdict=removable
	mfence
	ret
END(early_mask)

FUNC(early_unmask)
	movb	$0, HYPERVISOR_shared_info+MASK		# SITE unmask tests=all
	cmpb	$0, HYPERVISOR_shared_info		# SITE pending-test
	jne	force_callback
	ret
END(early_unmask)

FUNC(save_numbered)
	mov	%edi, %eax
	shl	$6, %rax
	add	$HYPERVISOR_shared_info, %rax
	movzbl	MASK(%rax), %ecx			# SITE save
	movb	$1, MASK(%rax)				# SITE mask cpu=other
	mov	%ecx, %eax
	ret
END(save_numbered)

FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)			# SITE force-callback
END(force_callback)

FUNC(handler)
	mov	$HYPERVISOR_shared_info, %rbx
	movb	$0, (%rbx)				# SITE pending-clear
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rbx)			# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	mov	0x800(%rbx), %rcx
	ret
END(handler)

	.data
	.balign 4096
	.globl HYPERVISOR_shared_info
HYPERVISOR_shared_info:
	.space 4096
	.section .note.GNU-stack, "", @progbits
