/* The old Linux trees for Xen on amd64: the number of the vCPU is in the CPU's area, and preemption is counted in the thread. */
#include "asm.h"
#define NUMBER 0x24
#define THREAD_COUNT 0x14
#define GET(reg) incl THREAD_COUNT(%rbp); movq %gs:NUMBER, reg; shl $32, reg; shr $26, reg; addq HYPERVISOR_shared_info, reg
#define PUT decl THREAD_COUNT(%rbp)
#define ONE(reg) movq HYPERVISOR_shared_info, reg

	.text
FUNC(force_evtchn_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
	ret
END(force_evtchn_callback)

FUNC(local_irq_enable)
	ONE(%rax)
	movb	$0, MASK(%rax)			# SITE unmask tests=all callbacks=yes hazards=none
	cmpb	$0, (%rax)			# SITE pending-test
	jne	force_evtchn_callback
	ret
END(local_irq_enable)

FUNC(evtchn_do_upcall)
	mov	HYPERVISOR_shared_info(%rip), %rdx
	movb	$0, (%rdx)			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	mov	%rax, ready(%rip)
	ret
END(evtchn_do_upcall)

/* Enters masked from Xen: nothing is tested after the stores that open, but each way out exits through Xen. */
FUNC(system_call)
	sub	$0x50, %rsp
	mov	%rax, 0x48(%rsp)
	ONE(%r11)
	movb	$0, MASK(%r11)			# SITE unmask tests=none exit=yes hazards=none cpu=fixed
	mov	%r10, %rcx
	call	*sys_call_table(,%rax,8)
	mov	%rax, 0x20(%rsp)
	.globl	ret_from_sys_call
ret_from_sys_call:
	mov	$0xff, %edi
1:	ONE(%rsi)
	movb	$1, MASK(%rsi)			# SITE mask hazards=none
	mov	0x10(%rcx), %edx
	and	%edi, %edx
	jne	2f
	ONE(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask exit=yes hazards=none
	mov	0x28(%rsp), %rcx
	add	$0x50, %rsp
	testb	$3, 8(%rsp)
	jne	3f
	testl	$0x80000000, 0x10(%rsp)
	jne	3f
	orb	$3, 8(%rsp)
	orb	$3, 0x20(%rsp)
	iretq
3:	andl	$0x7fffffff, 0x10(%rsp)
	push	$0x100
	jmp	HYPERCALL(IRET)
2:	bt	$3, %edx
	jae	4f
	ONE(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask tests=none exit=yes hazards=none
	push	%rdi
	call	schedule
	pop	%rdi
	jmp	1b
4:	ONE(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask tests=none exit=yes hazards=none
	xor	%esi, %esi
	call	schedule
	jmp	ret_from_sys_call
END(system_call)

FUNC(do_hypervisor_callback)
	mov	%rdi, %rsp
11:	mov	%gs:0x30, %rax
	incl	%gs:0x28
	cmove	%rax, %rsp
	push	%rdi
	call	evtchn_do_upcall
	pop	%rsp
	decl	%gs:0x28
error_exit:
	ONE(%rsi)
	movb	$1, MASK(%rsi)			# SITE mask hazards=none
	testb	$3, 0x60(%rsp)
	jne	1f
retint_restore_args:
	mov	0x60(%rsp), %eax
	shr	$9, %eax
	ONE(%rsi)
	andb	MASK(%rsi), %al			# SITE mask-test
	andb	$1, %al
	jne	restore_all_enable_events
	add	$0x58, %rsp
	push	$0
	jmp	HYPERCALL(IRET)
1:	ONE(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask tests=none hazards=no-pending-test
	call	schedule
	jmp	error_exit
	.balign	16
restore_all_enable_events:
	ONE(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask tests=all hazards=none
scrit:	testb	$0xff, (%rsi)			# SITE pending-test
	jne	14f
	add	$0x58, %rsp
	push	$0
	jmp	HYPERCALL(IRET)
14:	movb	$1, MASK(%rsi)			# SITE mask hazards=none
	sub	$0x30, %rsp
	mov	%rsp, %rdi
	jmp	11b
ecrit:
END(do_hypervisor_callback)

/* With SMP: this CPU's number; the thread's count keeps it there, which only its name would show. */
FUNC(retint_numbered)
	mov	0x60(%rsp), %eax
	shr	$9, %eax
	GET(%rsi)
	andb	MASK(%rsi), %al			# SITE mask-test
	andb	$1, %al
	jne	1f
	PUT
	push	$0
	jmp	HYPERCALL(IRET)
1:	movb	$0, MASK(%rsi)			# SITE unmask tests=all hazards=none cpu=loaded|guarded
	testb	$0xff, (%rsi)			# SITE pending-test
	jne	2f
	PUT
	push	$0
	jmp	HYPERCALL(IRET)
2:	movb	$1, MASK(%rsi)			# SITE mask hazards=none cpu=loaded|guarded
	PUT
	mov	%rsp, %rdi
	call	evtchn_do_upcall
	jmp	retint_numbered
END(retint_numbered)

FUNC(block_numbered)
	GET(%rsi)
	movb	$1, MASK(%rsi)			# SITE mask hazards=none cpu=loaded|guarded
	PUT
	call	schedule
	GET(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask tests=none hazards=no-pending-test cpu=loaded|guarded
	PUT
	ret
END(block_numbered)

FUNC(schedule)
	incl	ready(%rip)
	ret
END(schedule)

	.data
	.balign	8
ready:	.quad	0
sys_call_table: .fill 8, 8, 0
	.globl	HYPERVISOR_shared_info
	.type	HYPERVISOR_shared_info, @object
HYPERVISOR_shared_info: .quad 0
	.size	HYPERVISOR_shared_info, 8
	.section .note.GNU-stack, "", @progbits
