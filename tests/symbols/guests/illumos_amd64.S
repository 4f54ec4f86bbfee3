/* As illumos does it: mask and pending are exchanged together; hypercalls by syscall, with no hypercall page. */
#include "asm.h"
#define THREAD 0x18
#define VCPU_INFO 0x1f0
#define PREEMPT 0x40
#define SCHED_OP 29
#define BLOCK 1
#define STOP_MIGRATING(reg) mov %gs:THREAD, reg; addb $1, PREEMPT(reg)
#define MAY_MIGRATE(reg) mov %gs:THREAD, reg; subb $1, PREEMPT(reg)

	.text
FUNC(cli)
	STOP_MIGRATING(%rax)
	mov	%gs:VCPU_INFO, %rax
	movb	$1, MASK(%rax)		# SITE mask cpu=guarded
	MAY_MIGRATE(%rax)
	ret
END(cli)

FUNC(clear_int_flag)
	STOP_MIGRATING(%rdx)
	mov	%gs:VCPU_INFO, %rdx
	movb	MASK(%rdx), %al		# SITE save
	movb	$1, MASK(%rdx)		# SITE mask cpu=guarded
	MAY_MIGRATE(%rdx)
	movzbl	%al, %eax
	ret
END(clear_int_flag)

FUNC(sti)
	mov	%gs:VCPU_INFO, %r11
	movw	$0x100, %ax
	movw	$0, %di
	lock cmpxchgw %di, (%r11)	# SITE unmask fence=lock_cmpxchg/inline/access/all:replaceable verdict=replaceable width=2 tests=all callbacks=yes pointer=unstable
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
7:	ret
END(sti)

/* The same with 32-bit registers and the values the other way round in memory order. */
FUNC(sti_guarded)
	STOP_MIGRATING(%rdx)
	mov	%gs:VCPU_INFO, %rdx
	mov	$0x100, %eax
	xor	%ecx, %ecx
	lock cmpxchgw %cx, (%rdx)	# SITE unmask fence=lock_cmpxchg/inline/access/all:replaceable verdict=replaceable tests=all callbacks=yes cpu=guarded pointer=stable
	jne	force
	MAY_MIGRATE(%rdx)
	ret
force:	mov	$SCHED_OP, %eax
	mov	$BLOCK, %edi
	syscall				# SITE force-callback
	MAY_MIGRATE(%rdx)
	ret
END(sti_guarded)

/* Nothing looks at the outcome, so an event that is pending stays there. */
FUNC(sti_blind)
	mov	%gs:VCPU_INFO, %rdx
	mov	$0x100, %eax
	xor	%ecx, %ecx
	lock cmpxchgw %cx, (%rdx)	# SITE unmask fence=lock_cmpxchg/inline/access/all:undecided verdict=undecided tests=none hazards=no-pending-test
	ret
END(sti_blind)

FUNC(sti_plain)
	mov	%gs:VCPU_INFO, %r11
	movb	$0, MASK(%r11)		# SITE unmask tests=all callbacks=yes
	testb	$0xff, (%r11)		# SITE pending-test
	jz	9f
	movl	$XEN_VERSION, %eax
	xor	%edi, %edi
	xor	%esi, %esi
	syscall				# SITE force-callback
9:	ret
END(sti_plain)

/* Asks for Xen's version. */
FUNC(version)
	movl	$XEN_VERSION, %eax
	xor	%edi, %edi
	xor	%esi, %esi
	syscall
	mov	%eax, %ebx
	ret
END(version)

FUNC(idle)
	mov	%gs:VCPU_INFO, %rdx
	movb	$0, MASK(%rdx)		# SITE unmask exit=yes
	movl	$SCHED_OP, %eax
	movl	$BLOCK, %edi
	syscall
	ret
END(idle)

FUNC(leave)
	mov	%gs:VCPU_INFO, %rdx
	movb	$0, MASK(%rdx)		# SITE unmask exit=yes
	push	$0x100
	movl	$IRET, %eax
	syscall
END(leave)

FUNC(set_pending)
	mov	%gs:VCPU_INFO, %rdx
	mov	$0x100, %eax
	mov	$0x101, %ecx
	lock cmpxchgw %cx, (%rdx)	# SITE pending-set fence=lock_cmpxchg/inline/access/all:keep verdict=keep
	ret
END(set_pending)

FUNC(callback)
	mov	%gs:VCPU_INFO, %rdi
1:	movb	$0, (%rdi)		# SITE pending-clear fence=xchg/inline/after/all:keep verdict=keep
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdi)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	testb	$0xff, (%rdi)		# SITE pending-test
	jnz	1b
	ret
END(callback)

FUNC(another_callback)
	mov	%gs:VCPU_INFO, %rdi
	movb	$0, (%rdi)		# SITE pending-clear fence=xchg/inline/after/all:keep verdict=keep
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdi)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	ret
END(another_callback)
	.section .note.GNU-stack, "", @progbits
