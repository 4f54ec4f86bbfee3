/*
 * Mini-OS' and Unikraft's return from an event: the flags of the pending test decide twice, the second time
 * after a pop; labels are plain ones, and the hypercall page and shared_info are pages of .text.
 */
#include "asm.h"

	.text
	.globl	force_evtchn_callback
/* Delivers by hand: masks, handles and restores for as long as anything is pending. */
force_evtchn_callback:
	push	%rbx
	mov	HYPERVISOR_shared_info(%rip), %rdx
	movzbl	MASK(%rdx), %ebx		# SITE save
1:	movzbl	(%rdx), %eax			# SITE pending-test
	test	%al, %al
	je	2f
	movb	$1, MASK(%rdx)			# SITE mask hazards=none
	xor	%edi, %edi
	call	do_hypervisor_callback
	mov	HYPERVISOR_shared_info(%rip), %rdx
	mov	%bl, MASK(%rdx)			# SITE restore tests=all hazards=none
	jmp	1b
2:	pop	%rbx
	ret

	.globl	do_hypervisor_callback
do_hypervisor_callback:
	mov	HYPERVISOR_shared_info(%rip), %rdx
	movl	$1, in_callback(%rip)
	movb	$0, (%rdx)			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	test	%rax, %rax
	je	2f
1:	bsf	%rax, %rcx
	btr	%rcx, %rax
	mov	0x800(%rdx,%rcx,8), %rsi
	mov	0xa00(%rdx,%rcx,8), %rdi
	not	%rdi
	and	%rdi, %rsi
	je	3f
	lock btr %rsi, 0x800(%rdx)
3:	test	%rax, %rax
	jne	1b
2:	movl	$0, in_callback(%rip)
	ret

	.globl	local_irq_enable
local_irq_enable:
	mov	HYPERVISOR_shared_info(%rip), %rdx
	movb	$0, MASK(%rdx)			# SITE unmask tests=all hazards=none cpu=fixed
	movzbl	(%rdx), %eax			# SITE pending-test
	test	%al, %al
	jne	force_evtchn_callback
	ret

	.globl	error_entry
error_entry:
	cld
	sub	$0x70, %rsp
	mov	%rdi, 0x70(%rsp)
	mov	%rsp, %rdi
	mov	0x78(%rsp), %rsi
	call	*%rax
	jmp	error_exit

	.globl	hypervisor_callback
hypervisor_callback:
	mov	(%rsp), %rcx
	mov	8(%rsp), %r11
	add	$0x10, %rsp
	push	$0
	push	%rax
	lea	hypervisor_callback2(%rip), %rax
	jmp	error_entry

	.globl	hypervisor_callback2
hypervisor_callback2:
	mov	%rdi, %rsp
	mov	0x80(%rsp), %rax
	cmp	$scrit, %rax
	jb	11f
	cmp	$ecrit, %rax
	jb	critical_region_fixup
11:	mov	%gs:8, %rax
	incl	%gs:0
	cmove	%rax, %rsp
	push	%rdi
	call	do_hypervisor_callback
	pop	%rsp
	decl	%gs:0
error_exit:
	mov	0x90(%rsp), %eax
	shr	$9, %eax
	mov	HYPERVISOR_shared_info(%rip), %rsi
	andb	MASK(%rsi), %al			# SITE mask-test
	andb	$1, %al
	jne	restore_all_enable_events
	add	$0x80, %rsp
	testl	$0x80000000, 0x10(%rsp)
	jne	2f
	testb	$1, features(%rip)
	jne	1f
	orb	$3, 8(%rsp)
	orb	$3, 0x20(%rsp)
1:	iretq
2:	andl	$0x7fffffff, 0x10(%rsp)
	push	$0
	jmp	HYPERCALL(IRET)
restore_all_enable_events:
	add	$0x80, %rsp
	push	%rax
	mov	HYPERVISOR_shared_info(%rip), %rax
	movb	$0, MASK(%rax)			# SITE unmask tests=all hazards=none
scrit:	testb	$0xff, (%rax)			# SITE pending-test
	je	12f
	movb	$1, MASK(%rax)			# SITE mask hazards=none
12:	pop	%rax
restore_end:
	jne	hypervisor_prologue
	testl	$0x80000000, 0x10(%rsp)
	jne	2f
	iretq
2:	push	$0
	jmp	HYPERCALL(IRET)
ecrit:
hypervisor_prologue:
	push	%r11
	push	%rcx
	jmp	hypervisor_callback
critical_region_fixup:
	lea	0x80(%rsp), %rsi
	mov	0x98(%rsp), %rdi
	cmp	$restore_end, %rax
	jae	13f
	mov	(%rdi), %rax
	mov	%rax, 0x50(%rsp)
	add	$8, %rdi
13:	mov	$16, %rcx
15:	sub	$8, %rsi
	sub	$8, %rdi
	mov	(%rsi), %rax
	mov	%rax, (%rdi)
	loop	15b
	mov	%rdi, %rsp
	jmp	11b

/* The end: nothing opens the mask again, and nothing runs. */
	.globl	stop_kernel
stop_kernel:
	push	%rbx
	mov	HYPERVISOR_shared_info(%rip), %rax
	movb	$1, MASK(%rax)			# SITE mask hazards=none
	call	arch_fini
	pop	%rbx
	ret

arch_fini:
	movl	$0, in_callback(%rip)
	ret

/* Masks, blocks, and masks again: Xen opens the mask in between. */
	.globl	block_domain
block_domain:
	push	%rbx
	mov	%rdi, %rbx
	call	monotonic_clock
	cmp	%rbx, %rax
	jae	1f
	mov	%rbx, %rdi
	call	HYPERCALL(15)
	mov	$1, %edi
	xor	%esi, %esi
	call	HYPERCALL(29)
	mov	HYPERVISOR_shared_info(%rip), %rax
	movb	$1, MASK(%rax)			# SITE mask hazards=none
1:	pop	%rbx
	ret

monotonic_clock:
	mov	HYPERVISOR_shared_info(%rip), %rdx
1:	mov	0x20(%rdx), %ecx
	mov	0x30(%rdx), %rax
	cmp	%ecx, 0x20(%rdx)
	jne	1b
	ret

	.data
	.balign	8
in_callback: .long 0
features: .long 0
	.globl	HYPERVISOR_shared_info
	.type	HYPERVISOR_shared_info, @object
HYPERVISOR_shared_info: .quad shared_info
	.size	HYPERVISOR_shared_info, 8
	.bss
	.balign	4096
	.globl	shared_info
shared_info: .skip 4096
	.section .note.GNU-stack, "", @progbits
