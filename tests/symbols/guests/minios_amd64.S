/*
 * As Mini-OS, Unikraft, GRUB and the old Linux trees for Xen do it: vcpu_info[n] at
 * shared_info + 64 * n, through a pointer and as a page that is a linked symbol.
 */
#include "asm.h"

	.text
FUNC(cli_first)
	mov	HYPERVISOR_shared_info(%rip), %rax
	movb	$1, MASK(%rax)			# SITE mask fence=mfence/inline/after/all verdict=removable
	mfence
	ret
END(cli_first)

FUNC(sti_first)
	mov	HYPERVISOR_shared_info(%rip), %rax
	mfence
	movb	$0, MASK(%rax)			# SITE unmask fence=mfence/inline/before+mfence/inline/after verdict=removable tests=all
	mfence
	cmpb	$0, (%rax)			# SITE pending-test
	jne	force_callback
	ret
END(sti_first)

FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)		# SITE force-callback
END(force_callback)

FUNC(mask_third)
	mov	HYPERVISOR_shared_info(%rip), %rax
	movb	$1, 3*64+MASK(%rax)		# SITE mask cpu=fixed
	ret
END(mask_third)

FUNC(unmask_numbered)
	push	%rbx
	movslq	%edi, %rbx
	shl	$6, %rbx
	add	HYPERVISOR_shared_info(%rip), %rbx
	movb	$0, MASK(%rbx)			# SITE unmask fence=lfence/inline/after/all verdict=removable tests=all
	lfence
	cmpb	$0, (%rbx)			# SITE pending-test
	pop	%rbx
	jne	force_callback
	ret
END(unmask_numbered)

FUNC(unmask_indexed)
	mov	HYPERVISOR_shared_info(%rip), %rdx
	movslq	%edi, %rax
	shl	$6, %rax
	movb	$0, MASK(%rdx,%rax)		# SITE unmask tests=all
	cmpb	$0, (%rdx,%rax)			# SITE pending-test
	jne	force_callback
	ret
END(unmask_indexed)

FUNC(save_numbered)
	mov	%gs:cpu_number, %eax
	shl	$6, %rax
	add	HYPERVISOR_shared_info(%rip), %rax
	movzbl	MASK(%rax), %eax		# SITE save
	ret
END(save_numbered)

FUNC(mask_page)
	movb	$1, shared_info+MASK(%rip)	# SITE mask
	ret
END(mask_page)

FUNC(unmask_page)
	movb	$0, shared_info+MASK(%rip)	# SITE unmask fence=mfence/inline/after/all verdict=removable tests=all
	mfence
	cmpb	$0, shared_info(%rip)		# SITE pending-test
	jne	force_callback
	ret
END(unmask_page)

FUNC(mask_page_absolute)
	movb	$1, shared_info+2*64+MASK	# SITE mask
	ret
END(mask_page_absolute)

FUNC(mask_page_numbered)
	movslq	%edi, %rdi
	shl	$6, %rdi
	movb	$1, shared_info+MASK(%rdi)	# SITE mask cpu=other
	ret
END(mask_page_numbered)

/* The page is the operand's index, as position-independent code has it. */
FUNC(mask_page_by_index)
	mov	%edi, %eax
	shl	$6, %rax
	lea	shared_info(%rip), %rcx
	movb	$1, MASK(%rax,%rcx)		# SITE mask cpu=other
	ret
END(mask_page_by_index)

FUNC(save_and_mask_page)
	mov	$shared_info, %rdx
	movzbl	MASK(%rdx), %eax		# SITE save
	movb	$1, MASK(%rdx)			# SITE mask
	ret
END(save_and_mask_page)

FUNC(restore_page)
	mov	$shared_info, %rdx
	mov	%dil, MASK(%rdx)		# SITE restore fence=lfence/inline/after/all verdict=removable
	lfence
	test	%dil, %dil
	jne	1f
	cmpb	$0, (%rdx)			# SITE pending-test
	jne	force_callback
1:	ret
END(restore_page)

FUNC(do_hypervisor_callback)
	push	%rbx
	mov	HYPERVISOR_shared_info(%rip), %rbx
	movb	$0, (%rbx)			# SITE pending-clear
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rbx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	test	%rax, %rax
	je	2f
	/* The pending bits and their mask, beyond the vcpu_infos: not sites. */
	mov	0x800(%rbx), %rcx
	and	0xa00(%rbx), %rcx
	lock btr %rax, 0x800(%rbx)
2:	pop	%rbx
	ret
END(do_hypervisor_callback)

FUNC(unmask_evtchn)
	mov	HYPERVISOR_shared_info(%rip), %rdx
	lock btr %rdi, 0xa00(%rdx)
	lock btsq $0, SELECTOR(%rdx)		# SITE selector-set fence=lock_bts/inline/access:keep verdict=keep
	jc	1f
	movb	$1, (%rdx)			# SITE pending-set
	cmpb	$0, MASK(%rdx)			# SITE mask-test
	je	force_callback
1:	ret
END(unmask_evtchn)

FUNC(get_time)
	mov	HYPERVISOR_shared_info(%rip), %rdx
1:	mov	0x20(%rdx), %ecx
	lfence
	mov	0x30(%rdx), %rax
	lfence
	cmp	%ecx, 0x20(%rdx)
	jne	1b
	ret
END(get_time)

	.data
	.balign 8
	.globl HYPERVISOR_shared_info
	.type HYPERVISOR_shared_info, @object
HYPERVISOR_shared_info: .quad shared_info
	.size HYPERVISOR_shared_info, 8
	.balign 4096
	.globl shared_info
	.type shared_info, @object
shared_info:	.fill 4096, 1, 0
	.size shared_info, 4096
cpu_number = 0x40
	.section .note.GNU-stack, "", @progbits
