/*
 * The old Linux trees for Xen on i386: one vCPU at HYPERVISOR_shared_info, and with SMP the vCPU whose number the
 * thread's structure has.  Returns that enable events have a critical section between the store and the iret.
 */
#include "asm.h"
#define TI_FLAGS 8
#define TI_CPU 16
#define ONE(reg) movl HYPERVISOR_shared_info, reg
#define NUMBERED(reg) movl TI_CPU(%ebp), reg; shl $6, reg; addl HYPERVISOR_shared_info, reg
#define THREAD(reg) movl $-8192, reg; andl %esp, reg
#define SAVE_ALL cld; push %es; push %ds; push %eax; push %ebp; push %edi; push %esi; push %edx; push %ecx; push %ebx
#define RESTORE_REGS pop %ebx; pop %ecx; pop %edx; pop %esi; pop %edi; pop %ebp; pop %eax; pop %ds; pop %es

	.text
FUNC(force_evtchn_callback)
	push	%ebx
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
	pop	%ebx
	ret
END(force_evtchn_callback)

FUNC(local_irq_enable)
	ONE(%eax)
	movb	$0, MASK(%eax)			# SITE unmask tests=all hazards=none cpu=fixed
	cmpb	$0, (%eax)			# SITE pending-test
	jne	force_evtchn_callback
	ret
END(local_irq_enable)

FUNC(evtchn_do_upcall)
	push	%ebx
	ONE(%ebx)
	movb	$0, (%ebx)			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	xor	%eax, %eax
	xchg	%eax, SELECTOR32(%ebx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	mov	%eax, ready
	pop	%ebx
	ret
END(evtchn_do_upcall)

/* The system call: masks, looks for work, and enables events as the frame wants it. */
FUNC(system_call)
	push	%eax
	SAVE_ALL
	THREAD(%ebp)
	call	*sys_call_table(,%eax,4)
	mov	%eax, 0x18(%esp)
.globl syscall_exit
syscall_exit:
	ONE(%esi)
	movb	$1, MASK(%esi)			# SITE mask hazards=none cpu=fixed
	mov	TI_FLAGS(%ebp), %ecx
	testw	$0xff, %cx
	jne	syscall_exit_work
restore_all:
	mov	0x30(%esp), %eax
	testl	$0x80020000, %eax
	jne	hypervisor_iret
	shr	$9, %eax
	ONE(%esi)
	andb	MASK(%esi), %al			# SITE mask-test
	andb	$1, %al
	jne	restore_all_enable_events
	RESTORE_REGS
	add	$4, %esp
	iret
hypervisor_iret:
	andl	$0x7fffffff, 0x30(%esp)
	RESTORE_REGS
	add	$4, %esp
	jmp	HYPERCALL(IRET)
syscall_exit_work:
	testb	$0x8, %cl
	je	work_pending
	ONE(%esi)
	movb	$0, MASK(%esi)			# SITE unmask tests=none hazards=no-pending-test
	mov	%esp, %eax
	mov	$1, %edx
	call	do_syscall_trace
	jmp	resume_userspace
work_pending:
	testb	$0x4, %cl
	je	1f
	call	schedule
	ONE(%esi)
	movb	$1, MASK(%esi)			# SITE mask hazards=none
	mov	TI_FLAGS(%ebp), %ecx
	testb	$0x4, %cl
	jne	work_pending
	jmp	restore_all
1:	mov	%esp, %eax
	xor	%edx, %edx
	call	schedule
	.globl	resume_userspace
resume_userspace:
	ONE(%esi)
	movb	$1, MASK(%esi)			# SITE mask hazards=none
	mov	TI_FLAGS(%ebp), %ecx
	and	$0xff, %ecx
	jne	work_pending
	jmp	restore_all

/* sysexit: the store, the test and the exit, with esi loaded before. */
	.globl	sysenter_exit
	.type	sysenter_exit, @function
sysenter_exit:
	ONE(%esi)
	movb	$1, MASK(%esi)			# SITE mask hazards=none
	mov	TI_FLAGS(%ebp), %ecx
	testw	$0xff, %cx
	jne	syscall_exit_work
	mov	0x28(%esp), %edx
	mov	0x34(%esp), %ecx
	xor	%ebp, %ebp
	movb	$0, MASK(%esi)			# SITE unmask tests=all hazards=none
sysexit_scrit:
	testb	$0xff, (%esi)			# SITE pending-test
	jne	14f
	mov	0xc(%esp), %esi
	sysexit
14:	movb	$1, MASK(%esi)			# SITE mask hazards=none
sysexit_ecrit:
	push	%esp
	call	evtchn_do_upcall
	add	$4, %esp
	jmp	ret_from_intr

	.globl	hypervisor_callback
	.type	hypervisor_callback, @function
hypervisor_callback:
	push	%eax
	SAVE_ALL
	mov	0x28(%esp), %eax
	cmp	$scrit, %eax
	jb	11f
	cmp	$ecrit, %eax
	jb	critical_region_fixup
11:	push	%esp
	call	evtchn_do_upcall
	add	$4, %esp
	jmp	ret_from_intr
	.balign	16
restore_all_enable_events:
	movb	$0, MASK(%esi)			# SITE unmask tests=all hazards=none
scrit:	testb	$0xff, (%esi)			# SITE pending-test
	jne	14f
	RESTORE_REGS
	add	$4, %esp
	iret
14:	movb	$1, MASK(%esi)			# SITE mask hazards=none
	jmp	11b
ecrit:
critical_region_fixup:
	add	$fixup_table, %eax
	sub	$scrit, %eax
	movzbl	(%eax), %eax
	cmp	$0xff, %al
	jne	15f
	THREAD(%ebp)
	xor	%eax, %eax
15:	mov	%esp, %esi
	add	%eax, %esi
	mov	%esp, %edi
	add	$0x34, %edi
	mov	%eax, %ecx
	shr	$2, %ecx
	je	17f
16:	sub	$4, %esi
	sub	$4, %edi
	mov	(%esi), %eax
	mov	%eax, (%edi)
	loop	16b
17:	mov	%edi, %esp
	jmp	11b
ret_from_intr:
	THREAD(%ebp)
	mov	0x30(%esp), %eax
	movb	0x2c(%esp), %al
	test	$0x20002, %eax
	jne	resume_userspace
	jmp	restore_all
END(system_call)

/* With SMP: nothing shows whose number the thread has. */
FUNC(resume_numbered)
	NUMBERED(%esi)
	movb	$1, MASK(%esi)			# SITE mask pointer=unstable
	mov	TI_FLAGS(%ebp), %ecx
	test	$0xff, %ecx
	jne	1f
	NUMBERED(%esi)
	movb	$0, MASK(%esi)			# SITE unmask tests=all pointer=unstable hazards=none
	testb	$0xff, (%esi)			# SITE pending-test
	jne	2f
	RESTORE_REGS
	add	$4, %esp
	iret
2:	movb	$1, MASK(%esi)			# SITE mask hazards=none
	push	%esp
	call	evtchn_do_upcall
	add	$4, %esp
	jmp	resume_numbered
1:	NUMBERED(%esi)
	movb	$0, MASK(%esi)			# SITE unmask tests=none pointer=unstable hazards=no-pending-test
	call	schedule
	jmp	resume_numbered
END(resume_numbered)

FUNC(schedule)
	incl	ready
	ret
END(schedule)

FUNC(do_syscall_trace)
	decl	ready
	ret
END(do_syscall_trace)

	.section .rodata
fixup_table: .byte 0xff, 0xff, 0xff, 0xff, 0xff, 0, 4, 8
	.data
	.balign	4
ready:	.long	0
sys_call_table: .fill 8, 4, 0
	.globl	HYPERVISOR_shared_info
	.type	HYPERVISOR_shared_info, @object
HYPERVISOR_shared_info: .long 0
	.size	HYPERVISOR_shared_info, 4
	.section .note.GNU-stack, "", @progbits
