/*
 * As Linux does it on amd64: the vcpu_info itself is a per-CPU variable, accessed as %gs:absolute and as
 * %gs:displacement(%rip); there is also a per-CPU pointer to it.
 */
#include "asm.h"
#define AREA xen_vcpu_info
#define ITS_MASK xen_vcpu_info + MASK

	.text
FUNC(xen_irq_disable_direct)
	movb	$1, %gs:ITS_MASK		# SITE mask cpu=running pointer=stable width=1
	ret
END(xen_irq_disable_direct)

FUNC(xen_force_evtchn_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)		# SITE force-callback
END(xen_force_evtchn_callback)

FUNC(check_events)
	push	%rax
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	call	xen_force_evtchn_callback
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%rcx
	pop	%rax
	ret
END(check_events)

FUNC(xen_irq_enable_direct)
	movb	$0, %gs:ITS_MASK		# SITE unmask tests=all cpu=running pointer=stable
	testb	$0xff, %gs:AREA			# SITE pending-test
	jz	1f
	call	check_events
1:	ret
END(xen_irq_enable_direct)

FUNC(xen_save_fl_direct)
	testb	$0xff, %gs:ITS_MASK		# SITE save
	setz	%ah
	addb	%ah, %ah
	ret
END(xen_save_fl_direct)

/* One read of both bytes: pending is 1 and mask is 0. */
FUNC(xen_restore_fl_direct)
	testw	$0x200, %di
	setz	%gs:ITS_MASK			# SITE restore tests=all cpu=running
	cmpw	$1, %gs:AREA			# SITE pending-test width=2
	jnz	1f
	call	check_events
1:	ret
END(xen_restore_fl_direct)

FUNC(mask_by_rip)
	movb	$1, %gs:ITS_MASK(%rip)		# SITE mask cpu=running
	ret
END(mask_by_rip)

FUNC(unmask_by_rip)
	movb	$0, %gs:ITS_MASK(%rip)		# SITE unmask tests=all
	cmpb	$0, %gs:AREA(%rip)		# SITE pending-test
	jne	xen_force_evtchn_callback
	ret
END(unmask_by_rip)

/* An old C variant: through the pointer, with preemption disabled by its count. */
FUNC(xen_irq_enable)
	push	%rbx
	incl	%gs:__preempt_count(%rip)
	mov	%gs:xen_vcpu(%rip), %rbx
	movb	$0, MASK(%rbx)			# SITE unmask tests=all fence=mfence/inline/after/all verdict=removable
	mfence
	cmpb	$0, (%rbx)			# SITE pending-test
	je	1f
	call	xen_force_evtchn_callback
1:	decl	%gs:__preempt_count(%rip)
	pop	%rbx
	ret
END(xen_irq_enable)

FUNC(xen_save_fl)
	mov	%gs:xen_vcpu, %rax
	cmpb	$1, MASK(%rax)			# SITE save
	sbb	%rax, %rax
	and	$0x200, %eax
	ret
END(xen_save_fl)

FUNC(xen_restore_fl)
	mov	%rdi, %rax
	shr	$9, %rax
	xor	$1, %eax
	and	$1, %eax
	mov	%gs:xen_vcpu, %rdx
	mov	%al, MASK(%rdx)			# SITE restore
	test	%al, %al
	jne	1f
	cmpb	$0, (%rdx)			# SITE pending-test
	jne	xen_force_evtchn_callback
1:	ret
END(xen_restore_fl)

FUNC(mask_of_cpu)
	mov	%edi, %eax
	mov	__per_cpu_offset(,%rax,8), %rdx
	mov	$xen_vcpu, %rcx
	mov	(%rdx,%rcx), %rax
	movb	$1, MASK(%rax)			# SITE mask cpu=other
	ret
END(mask_of_cpu)

FUNC(unmask_port_here)
	mov	%gs:xen_vcpu(%rip), %rax
	lock bts %rbx, SELECTOR(%rax)		# SITE selector-set fence=lock_bts/inline/access:keep verdict=keep
	jb	1f
	movb	$1, (%rax)			# SITE pending-set
1:	ret
END(unmask_port_here)

FUNC(xen_evtchn_do_upcall)
	push	%rbx
	mov	%gs:xen_vcpu(%rip), %rbx
1:	movb	$0, (%rbx)			# SITE pending-clear
	mov	evtchn_ops(%rip), %rax
	mov	%rbx, %rdi
	call	xen_evtchn_handle_events
	cmpb	$0, (%rbx)			# SITE pending-test
	jne	1b
	pop	%rbx
	ret
END(xen_evtchn_do_upcall)

FUNC(xen_evtchn_handle_events)
	mov	%gs:xen_vcpu(%rip), %rdx
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	mov	%rax, %rdi
	ret
END(xen_evtchn_handle_events)

/* The clock's sequence lock in the same vcpu_info: not a site. */
FUNC(xen_clock_read)
	mov	%gs:xen_vcpu(%rip), %rdi
	add	$0x20, %rdi
1:	mov	(%rdi), %ecx
	lfence
	mov	16(%rdi), %rax
	lfence
	cmp	(%rdi), %ecx
	jne	1b
	test	$1, %cl
	jne	1b
	ret
END(xen_clock_read)

	.section .percpu, "aw", @progbits
	.fill 0x1000, 1, 0
	.globl __preempt_count, xen_vcpu, xen_vcpu_info
	.type xen_vcpu, @object
xen_vcpu:	.quad 0
	.size xen_vcpu, 8
__preempt_count: .long 0
	.balign 64
	.type xen_vcpu_info, @object
xen_vcpu_info:	.fill 64, 1, 0
	.size xen_vcpu_info, 64
	.data
	.balign 8
	.globl __per_cpu_offset
__per_cpu_offset: .fill 8, 8, 0
evtchn_ops:	.quad 0
	.section .note.GNU-stack, "", @progbits
