/*
 * As NetBSD does it on amd64: curcpu() is a self pointer at %gs:SELF, one of its fields points to the
 * vcpu_info, and most fences are functions.
 */
#include "asm.h"
#define SELF 0x20
#define CI_NEXT 0x18
#define CI_DEPTH 0x1c4
#define CI_VCPU 0x2a8

	.text
FUNC(x86_lfence)
	lfence
	ret
END(x86_lfence)

FUNC(x86_mfence)
	mfence
	ret
END(x86_mfence)

UNSIZED(x86_sfence)
	sfence
	ret

FUNC(xen_mb)
	jmp	x86_mfence
END(xen_mb)

FUNC(membar_sync)
	.globl membar_enter
	.type membar_enter, @function
membar_enter:
	lock addq $0, -8(%rsp)
	ret
END(membar_sync)
	.size membar_enter, . - membar_enter

/* Named like a barrier, but not one. */
FUNC(membar_producer)
	movq	$0, -8(%rsp)
	ret
END(membar_producer)

FUNC(kpreempt_disable)
	incl	%gs:CI_DEPTH
	ret
END(kpreempt_disable)

FUNC(kpreempt_enable)
	decl	%gs:CI_DEPTH
	ret
END(kpreempt_enable)

FUNC(do_work)
	incl	work_count(%rip)
	ret
END(do_work)

/* --- masks --- */

FUNC(mask_tail)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, MASK(%rax)		# SITE mask fence=lfence/tail-jump/after/all:removable via=x86_lfence verdict=removable width=1
	jmp	x86_lfence
END(mask_tail)

FUNC(mask_callee)
	push	%rbp
	mov	%rsp, %rbp
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, MASK(%rax)		# SITE mask fence=mfence/callee/after/all verdict=removable
	call	x86_mfence
	leave
	ret
END(mask_callee)

FUNC(mask_wrapped_callee)
	mov	%gs:SELF, %rcx
	mov	CI_VCPU(%rcx), %rdx
	movb	$1, MASK(%rdx)		# SITE mask fence=mfence/callee/after/all verdict=removable
	call	xen_mb
	xor	%eax, %eax
	ret
END(mask_wrapped_callee)

FUNC(mask_locked_callee)
	mov	%gs:SELF, %rcx
	mov	CI_VCPU(%rcx), %rdx
	movb	$1, MASK(%rdx)		# SITE mask fence=lock_add/callee/after/all verdict=removable
	call	membar_sync
	ret
END(mask_locked_callee)

FUNC(mask_no_barrier)
	mov	%gs:SELF, %rcx
	mov	CI_VCPU(%rcx), %rdx
	movb	$1, MASK(%rdx)		# SITE mask
	call	membar_producer
	ret
END(mask_no_barrier)

FUNC(mask_store_fence)
	mov	%gs:SELF, %rcx
	mov	CI_VCPU(%rcx), %rdx
	movb	$1, MASK(%rdx)		# SITE mask fence=sfence/tail-jump/after verdict=removable
	jmp	x86_sfence
END(mask_store_fence)

FUNC(mask_inline_lfence)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, MASK(%rax)		# SITE mask fence=lfence/inline/after/all verdict=removable
	lfence
	ret
END(mask_inline_lfence)

FUNC(mask_inline_mfence)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %r9
	movb	$1, MASK(%r9)		# SITE mask fence=mfence/inline/after/all verdict=removable
	mfence
	ret
END(mask_inline_mfence)

FUNC(mask_inline_locked)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %r11
	movb	$1, MASK(%r11)		# SITE mask fence=lock_add/inline/after/all verdict=removable
	lock addq $0, -8(%rsp)
	ret
END(mask_inline_locked)

FUNC(mask_inline_exchange)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %r11
	movb	$1, MASK(%r11)		# SITE mask fence=xchg/inline/after/all verdict=removable
	xchg	%rcx, -8(%rsp)
	ret
END(mask_inline_exchange)

FUNC(mask_serialised)
	push	%rbx
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %r11
	movb	$1, MASK(%r11)		# SITE mask fence=cpuid/inline/after/all verdict=removable
	xor	%eax, %eax
	cpuid
	pop	%rbx
	ret
END(mask_serialised)

FUNC(mask_some_paths)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, MASK(%rax)		# SITE mask fence=lfence/inline/after/some verdict=removable
	test	%edi, %edi
	je	1f
	lfence
1:	ret
END(mask_some_paths)

FUNC(mask_fence_before)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	mfence
	movb	$1, MASK(%rax)		# SITE mask fence=mfence/inline/before/all verdict=removable
	ret
END(mask_fence_before)

FUNC(mask_register)
	mov	$1, %ecx
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	mov	%cl, MASK(%rax)		# SITE mask
	ret
END(mask_register)

FUNC(mask_guarded)
	push	%rbx
	call	kpreempt_disable
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, MASK(%rax)		# SITE mask cpu=guarded pointer=stable
	call	kpreempt_enable
	pop	%rbx
	ret
END(mask_guarded)

/* --- unmasks --- */

FUNC(unmask_callee)
	push	%rbx
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rbx
	movb	$0, MASK(%rbx)		# SITE unmask fence=lfence/callee/after/all verdict=removable tests=all callbacks=yes
	call	x86_lfence
	movzbl	(%rbx), %eax		# SITE pending-test
	test	%al, %al
	jne	1f
	pop	%rbx
	ret
1:	xor	%edi, %edi
	xor	%esi, %esi
	call	HYPERCALL(XEN_VERSION)	# SITE force-callback
	pop	%rbx
	ret
END(unmask_callee)

FUNC(unmask_spilled)
	push	%rbp
	mov	%rsp, %rbp
	sub	$0x40, %rsp
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$0, MASK(%rax)		# SITE unmask fence=lfence/callee/after/all verdict=removable tests=all callbacks=yes
	mov	%rax, -0x38(%rbp)
	call	x86_lfence
	mov	-0x38(%rbp), %rax
	movzbl	(%rax), %eax		# SITE pending-test
	test	%al, %al
	je	1f
	xor	%edi, %edi
	xor	%esi, %esi
	call	HYPERCALL(XEN_VERSION)	# SITE force-callback
1:	leave
	ret
END(unmask_spilled)

FUNC(unmask_plain)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$0, MASK(%rax)		# SITE unmask tests=all
	movzbl	(%rax), %eax		# SITE pending-test
	test	%al, %al
	jne	1f
	ret
1:	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(unmask_plain)

FUNC(unmask_compared)
	mov	%gs:SELF, %rdx
	xor	%eax, %eax
	mov	CI_VCPU(%rdx), %rdx
	mov	%al, MASK(%rdx)		# SITE unmask fence=mfence/inline/after/all verdict=removable tests=all
	mfence
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	unmask_slow
	ret
END(unmask_compared)

FUNC(unmask_slow)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(unmask_slow)

FUNC(unmask_guarded)
	push	%rbx
	call	kpreempt_disable
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rbx
	movb	$0, MASK(%rbx)		# SITE unmask fence=lfence/callee/after/all verdict=removable tests=all cpu=guarded pointer=stable
	call	x86_lfence
	cmpb	$0, (%rbx)		# SITE pending-test
	je	1f
	xor	%edi, %edi
	xor	%esi, %esi
	call	HYPERCALL(XEN_VERSION)	# SITE force-callback
1:	call	kpreempt_enable
	pop	%rbx
	ret
END(unmask_guarded)

/* --- save, mask and restore --- */

FUNC(spl_section)
	push	%rbx
	push	%r12
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rbx
	movzbl	MASK(%rbx), %r12d	# SITE save
	movb	$1, MASK(%rbx)		# SITE mask fence=lfence/callee/after/all verdict=removable
	call	x86_lfence
	call	do_work
	mov	%r12b, MASK(%rbx)	# SITE restore fence=lfence/callee/after/all verdict=removable tests=all callbacks=yes
	call	x86_lfence
	cmpb	$0, (%rbx)		# SITE pending-test
	je	1f
	xor	%edi, %edi
	xor	%esi, %esi
	call	HYPERCALL(XEN_VERSION)	# SITE force-callback
1:	pop	%r12
	pop	%rbx
	ret
END(spl_section)

FUNC(restore_reloads)
	push	%r12
	mov	%gs:SELF, %r12
	mov	CI_VCPU(%r12), %rax
	mov	%dil, MASK(%rax)	# SITE restore fence=lfence/callee/after/all verdict=removable tests=all
	call	x86_lfence
	mov	CI_VCPU(%r12), %rax
	movzbl	(%rax), %eax		# SITE pending-test
	test	%al, %al
	jne	1f
	pop	%r12
	ret
1:	pop	%r12
	jmp	unmask_slow
END(restore_reloads)

/* Only restoring 0 requires the test. */
FUNC(restore_if_zero)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	mov	%dil, MASK(%rax)	# SITE restore fence=lfence/inline/after/all verdict=removable
	lfence
	test	%dil, %dil
	jne	1f
	cmpb	$0, (%rax)		# SITE pending-test
	jne	unmask_slow
1:	ret
END(restore_if_zero)

/* The mask itself is read to decide whether to test. */
FUNC(restore_and_read_back)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	mov	%dil, MASK(%rax)	# SITE restore fence=mfence/inline/after/all verdict=removable tests=all
	mfence
	cmpb	$0, MASK(%rax)		# SITE mask-test
	jne	1f
	cmpb	$0, (%rax)		# SITE pending-test
	jne	unmask_slow
1:	ret
END(restore_and_read_back)

/* Two stores; the one that leaves the mask set requires no test. */
FUNC(restore_by_two_stores)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	test	%dil, %dil
	jne	1f
	movb	$0, MASK(%rax)		# SITE unmask fence=lfence/inline/after/all verdict=removable tests=all
	lfence
	cmpb	$0, (%rax)		# SITE pending-test
	jne	unmask_slow
	ret
1:	mov	%dil, MASK(%rax)	# SITE restore fence=lfence/inline/after/all verdict=removable tests=none
	lfence
	ret
END(restore_by_two_stores)

/* The same the other way round: the store on the path where it is 0 requires a test. */
FUNC(restore_by_the_wrong_store)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	test	%dil, %dil
	je	1f
	movb	$1, MASK(%rax)		# SITE mask
	ret
1:	mov	%dil, MASK(%rax)	# SITE restore fence=lfence/inline/after/all:undecided verdict=undecided tests=none hazards=no-pending-test
	lfence
	ret
END(restore_by_the_wrong_store)

FUNC(save_and_mask)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rdx
	movzbl	MASK(%rdx), %eax	# SITE save
	movb	$1, MASK(%rdx)		# SITE mask fence=lfence/inline/after/all verdict=removable
	lfence
	ret
END(save_and_mask)

FUNC(save_as_flag)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	cmpb	$0, MASK(%rax)		# SITE save
	sete	%al
	movzbl	%al, %eax
	shl	$9, %eax
	ret
END(save_as_flag)

FUNC(panic_unless_masked)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	cmpb	$0, MASK(%rax)		# SITE mask-test
	je	1f
	ret
1:	ud2
END(panic_unless_masked)

/* --- pointers from other sources --- */

FUNC(unmask_argument)
	push	%rbx
	mov	%rdi, %rbx
	movb	$0, MASK(%rdi)		# SITE unmask fence=lfence/callee/after/all verdict=removable tests=all
	call	x86_lfence
	cmpb	$0, (%rbx)		# SITE pending-test
	pop	%rbx
	jne	unmask_slow
	ret
END(unmask_argument)

FUNC(unmask_this)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rdi
	jmp	unmask_argument
END(unmask_this)

FUNC(unmask_of_cpu)
	push	%rbx
	mov	%rdi, %rbx
	mov	CI_VCPU(%rbx), %rdi
	call	unmask_argument
	pop	%rbx
	ret
END(unmask_of_cpu)

FUNC(mask_every_cpu)
	mov	cpu_info_list(%rip), %rax
	test	%rax, %rax
	je	2f
1:	mov	CI_VCPU(%rax), %rdx
	movb	$1, MASK(%rdx)		# SITE mask cpu=other
	mov	CI_NEXT(%rax), %rax
	test	%rax, %rax
	jne	1b
2:	ret
END(mask_every_cpu)

FUNC(mask_cpu_of_table)
	movslq	%edi, %rdi
	mov	cpu_infos(,%rdi,8), %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, MASK(%rax)		# SITE mask cpu=other
	ret
END(mask_cpu_of_table)

FUNC(send_to_cpu)
	mov	CI_VCPU(%rdi), %rdx
	lock btsq $0, (%rdx)		# SITE pending-set fence=lock_bts/inline/access:keep verdict=keep width=8
	ret
END(send_to_cpu)

FUNC(set_selector)
	mov	CI_VCPU(%rdi), %rdx
	lock bts %rsi, SELECTOR(%rdx)	# SITE selector-set fence=lock_bts/inline/access:keep verdict=keep
	ret
END(set_selector)

FUNC(set_pending_here)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, (%rax)		# SITE pending-set
	ret
END(set_pending_here)

/* --- the upcall handler and the returns to the guest --- */

FUNC(do_events)
	push	%rbx
	push	%r12
	mov	%gs:SELF, %r12
	mov	CI_VCPU(%r12), %rbx
	cmpb	$0, (%rbx)		# SITE pending-test
	je	2f
1:	movb	$0, (%rbx)		# SITE pending-clear
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rbx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	mov	%rax, %rdi
	call	do_work
	cmpb	$0, (%rbx)		# SITE pending-test
	jne	1b
2:	pop	%r12
	pop	%rbx
	ret
END(do_events)

#define CLI mov %gs:SELF, %rsi; mov CI_VCPU(%rsi), %rsi; movb $1, MASK(%rsi)
#define STI mov %gs:SELF, %rsi; mov CI_VCPU(%rsi), %rsi; movb $0, MASK(%rsi)

FUNC(upcall_entry)
	push	%rax
	push	%rsi
	push	%rdi
	call	do_events
	CLI				# SITE mask
	cmpl	$0, %gs:CI_DEPTH
	jne	upcall_return
	STI				# SITE unmask hazards=no-pending-test? exit=yes
	pop	%rdi
	pop	%rsi
	pop	%rax
	add	$8, %rsp
	iretq
upcall_return:
	STI				# SITE unmask hazards=no-pending-test? exit=yes
	pop	%rdi
	pop	%rsi
	pop	%rax
	push	$0
	jmp	HYPERCALL(IRET)
END(upcall_entry)

/* --- reads for printing --- */

FUNC(print_vcpu)
	mov	CI_VCPU(%rdi), %rax
	movzbl	MASK(%rax), %edx	# SITE debug-read
	movzbl	(%rax), %esi		# SITE debug-read
	lea	format(%rip), %rdi
	xor	%eax, %eax
	jmp	printf
END(print_vcpu)

FUNC(printf)
	call	do_work
	ret
END(printf)

	.data
	.balign 8
	.globl cpu_info_list, cpu_infos, work_count
	.type cpu_info_list, @object
cpu_info_list:	.quad 0
	.size cpu_info_list, 8
cpu_infos:	.fill 8, 8, 0
work_count:	.long 0
	.section .rodata, "a"
format:	.asciz "pending %d mask %d\n"
	.section .note.GNU-stack, "", @progbits
