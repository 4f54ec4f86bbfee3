/* illumos' handler and its flags: barriers and atomics are functions, and the mask is put into and taken from flags. */
#include "asm.h"
#define THREAD 0x18
#define VCPU_INFO 0x1f0
#define PREEMPT 0x40
#define SCHED_OP 29
#define BLOCK 1
#define STOP_MIGRATING(reg) mov %gs:THREAD, reg; addb $1, PREEMPT(reg)
#define MAY_MIGRATE(reg) mov %gs:THREAD, reg; subb $1, PREEMPT(reg)

	.text
FUNC(sti)
	mov	%gs:VCPU_INFO, %r11
	movb	$0, MASK(%r11)		# SITE unmask tests=all callbacks=yes hazards=none
	testb	$0xff, (%r11)		# SITE pending-test
	jz	9f
	movl	$XEN_VERSION, %eax
	xor	%edi, %edi
	xor	%esi, %esi
	syscall				# SITE force-callback
9:	ret
END(sti)

/* As the compiler makes it of xen_callback_handler: barriers and atomics are functions. */
FUNC(membar_enter)
	mfence
	ret
END(membar_enter)

FUNC(membar_consumer)
	lfence
	ret
END(membar_consumer)

FUNC(atomic_cas_ulong)
	mov	%rsi, %rax
	lock cmpxchg %rdx, (%rdi)	# SITE selector-take|selector-set? fence=lock_cmpxchg/inline/access:keep verdict=keep hazards=none
	ret
END(atomic_cas_ulong)

FUNC(atomic_or_ulong)
	lock or	%rsi, (%rdi)		# SITE selector-set fence=lock_or/inline/access:keep verdict=keep hazards=none
	ret
END(atomic_or_ulong)

FUNC(xen_callback_handler)
	push	%rbp
	mov	%rsp, %rbp
	push	%r12
	push	%rbx
	mov	%gs:VCPU_INFO, %rbx
	movb	$0, (%rbx)		# SITE pending-clear fence=mfence/callee/after/all:keep verdict=keep hazards=none
	call	membar_enter
	lea	SELECTOR(%rbx), %r12
1:	mov	SELECTOR(%rbx), %rbx	# SITE debug-read|selector-take
	xor	%edx, %edx
	mov	%rbx, %rsi
	mov	%r12, %rdi
	call	atomic_cas_ulong
	cmp	%rax, %rbx
	mov	%gs:VCPU_INFO, %rbx
	jne	1b
	pop	%rbx
	pop	%r12
	pop	%rbp
	ret
END(xen_callback_handler)

/* The selector's bit, then pending: an upcall to itself. */
FUNC(ec_unmask_evtchn)
	push	%rbx
	mov	%gs:VCPU_INFO, %rbx
	call	membar_enter
	test	$1, %sil
	je	1f
	call	membar_consumer
	lea	SELECTOR(%rbx), %rdi
	test	%rsi, (%rdi)		# SITE debug-read
	jne	2f
	call	atomic_or_ulong
2:	movb	$1, (%rbx)		# SITE pending-set
1:	pop	%rbx
	ret
END(ec_unmask_evtchn)

/* EVENT_MASK_TO_IE and IE_TO_EVENT_MASK: flags as hardware has them. */
FUNC(event_mask_to_ie)
	andq	$~0x200, %rdi
	mov	%gs:VCPU_INFO, %rax
	movb	MASK(%rax), %al		# SITE save
	xorb	$1, %al
	movzbl	%al, %eax
	shl	$9, %eax
	or	%rdi, %rax
	ret
END(event_mask_to_ie)

FUNC(ie_to_event_mask)
	testq	$0x200, %rdi
	jne	4f
	STOP_MIGRATING(%rax)
	mov	%gs:VCPU_INFO, %rax
	movb	$1, MASK(%rax)		# SITE mask cpu=guarded hazards=none
	MAY_MIGRATE(%rax)
	jmp	5f
4:	push	%rax
	push	%rdi
	push	%r11
	mov	%gs:VCPU_INFO, %r11
	movw	$0x100, %ax
	movw	$0, %di
	lock cmpxchgw %di, (%r11)	# SITE unmask fence=lock_cmpxchg/inline/access/all:replaceable verdict=replaceable tests=all callbacks=yes hazards=none
	jz	7f
	movl	$SCHED_OP, %eax
	movl	$BLOCK, %edi
	push	%rsi
	push	%rcx
	push	%rdx
	syscall				# SITE force-callback
	pop	%rdx
	pop	%rcx
	pop	%rsi
7:	pop	%r11
	pop	%rdi
	pop	%rax
5:	ret
END(ie_to_event_mask)

/* sys_rtt: the frame's mask goes to Xen by the iret hypercall. */
FUNC(sys_rtt)
	mov	%gs:VCPU_INFO, %rdx
	movb	$1, MASK(%rdx)		# SITE mask hazards=none
	mov	8(%rsp), %rdi
	testl	$3, 0x10(%rsp)
	je	1f
	push	$0x100
	movl	$IRET, %eax
	syscall
1:	push	$0
	movl	$IRET, %eax
	syscall
	ud2
END(sys_rtt)
	.section .note.GNU-stack, "", @progbits
