/* As Linux since 6.15 does it: per-CPU variables relative to rip; hypercalls through a function, with no hypercall page. */
#include "asm.h"

	.text
FUNC(xen_irq_disable_direct)
	movb	$1, %gs:xen_vcpu_info+MASK(%rip)	# SITE mask cpu=running width=1
	ret
END(xen_irq_disable_direct)

FUNC(check_events)
	push	%rax
	push	%rcx
	call	xen_force_evtchn_callback
	pop	%rcx
	pop	%rax
	ret
END(check_events)

FUNC(xen_irq_enable_direct)
	movb	$0, %gs:xen_vcpu_info+MASK(%rip)	# SITE unmask cpu=running tests=all callbacks=yes
	testb	$0xff, %gs:xen_vcpu_info(%rip)	# SITE pending-test
	jz	1f
	call	check_events
1:	ret
END(xen_irq_enable_direct)

FUNC(xen_save_fl_direct)
	testb	$0xff, %gs:xen_vcpu_info+MASK(%rip)	# SITE save
	setz	%ah
	addb	%ah, %ah
	ret
END(xen_save_fl_direct)

FUNC(xen_force_evtchn_callback)
	mov	$XEN_VERSION, %eax
	xor	%edi, %edi
	xor	%esi, %esi
	call	__SCT__xen_hypercall		# SITE force-callback
	ret
END(xen_force_evtchn_callback)

FUNC(__SCT__xen_hypercall)
	jmp	xen_hypercall_hvm
	ud2
END(__SCT__xen_hypercall)

FUNC(xen_hypercall_pv)
	push	%rcx
	push	%r11
	syscall
	pop	%r11
	pop	%rcx
	ret
END(xen_hypercall_pv)

FUNC(xen_hypercall_hvm)
	push	%rax
	push	%rcx
	push	%rdi
	call	xen_setfunc
	pop	%rdi
	cmp	%rax, %rcx
	pop	%rcx
	pop	%rax
	jz	xen_hypercall_amd
	jmp	xen_hypercall_intel
END(xen_hypercall_hvm)

FUNC(xen_setfunc)
	lea	xen_hypercall_amd(%rip), %rax
	ret
END(xen_setfunc)

FUNC(xen_hypercall_amd)
	vmmcall
	ret
END(xen_hypercall_amd)

FUNC(xen_hypercall_intel)
	vmcall
	ret
END(xen_hypercall_intel)

/* The function that takes events is known only when the kernel runs. */
FUNC(xen_evtchn_do_upcall)
	mov	%gs:xen_vcpu(%rip), %rdi
1:	movb	$0, (%rdi)			# SITE pending-clear
	call	*handlers(%rip)
	mov	%gs:xen_vcpu(%rip), %rdi
	cmpb	$0, (%rdi)			# SITE pending-test
	jne	1b
	ret
END(xen_evtchn_do_upcall)

/* The same, compiled with thunks for indirect branches and returns. */
FUNC(xen_evtchn_do_upcall_by_thunk)
	push	%rbx
	mov	%gs:xen_vcpu(%rip), %rbx
1:	movb	$0, (%rbx)			# SITE pending-clear hazards=none
	mov	handlers(%rip), %rax
	call	__x86_indirect_thunk_rax
	cmpb	$0, (%rbx)			# SITE pending-test
	jne	1b
	pop	%rbx
	jmp	__x86_return_thunk
END(xen_evtchn_do_upcall_by_thunk)

FUNC(xen_irq_enable_by_thunk)
	mov	%gs:xen_vcpu(%rip), %rbx
	movb	$0, MASK(%rbx)			# SITE unmask tests=all hazards=none
	testb	$0xff, (%rbx)			# SITE pending-test
	jz	1f
	call	check_events
1:	jmp	__x86_return_thunk
END(xen_irq_enable_by_thunk)

FUNC(__x86_indirect_thunk_rax)
	call	1f
2:	pause
	lfence
	jmp	2b
1:	mov	%rax, (%rsp)
	ret
END(__x86_indirect_thunk_rax)

FUNC(__x86_return_thunk)
	ret
	int3
END(__x86_return_thunk)

FUNC(xen_safe_halt)
	movb	$0, %gs:xen_vcpu_info+MASK(%rip)	# SITE unmask exit=yes
	mov	$29, %eax
	mov	$1, %edi
	xor	%esi, %esi
	call	__SCT__xen_hypercall
	ret
END(xen_safe_halt)

FUNC(callers)
	call	xen_irq_enable_direct
	call	xen_irq_disable_direct
	call	xen_save_fl_direct
	call	xen_evtchn_do_upcall
	call	xen_safe_halt
	ret
END(callers)

	.data
	.balign 64
	.globl xen_vcpu_info, xen_vcpu, handlers
	.type xen_vcpu_info, @object
xen_vcpu_info:	.skip 64
	.size xen_vcpu_info, 64
	.type xen_vcpu, @object
xen_vcpu:	.quad 0
	.size xen_vcpu, 8
	.type handlers, @object
handlers:	.quad 0
	.size handlers, 8
	.section .note.GNU-stack, "", @progbits
