/* Hazards that no fence fixes, one in each function. */
#include "asm.h"
#define SELF 0x10
#define CI_DEPTH 0x84
#define CI_VCPU 0x1b0

#define VCPU(register) mov %gs:SELF, register; mov CI_VCPU(register), register

	.text
FUNC(x86_lfence)
	lfence
	ret
END(x86_lfence)

FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(force_callback)

FUNC(schedule)
	incl	switches(%rip)
	ret
END(schedule)

/* One correct site of each kind, so that the layout can be learned. */
FUNC(honest)
	push	%rbx
	VCPU(%rbx)
	movb	$1, MASK(%rbx)		# SITE mask
	call	schedule
	movb	$0, MASK(%rbx)		# SITE unmask tests=all
	cmpb	$0, (%rbx)		# SITE pending-test
	pop	%rbx
	jne	force_callback
	ret
END(honest)

FUNC(handler)
	VCPU(%rdx)
	movb	$0, (%rdx)		# SITE pending-clear
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	ret
END(handler)

/* A two-byte store erases a pending flag that another CPU sets. */
FUNC(wide_word)
	VCPU(%rdx)
	movw	$0, (%rdx)		# SITE unmask width=2 hazards=wide-store+no-pending-test? fence=lfence/tail-jump:undecided verdict=undecided
	jmp	x86_lfence
END(wide_word)

FUNC(wide_mask)
	VCPU(%rdx)
	movw	$0x100, (%rdx)		# SITE mask width=2 hazards=wide-store
	ret
END(wide_mask)

/* A fence does not fix it. */
FUNC(wide_mask_fenced)
	VCPU(%rdx)
	movw	$0x100, (%rdx)		# SITE mask width=2 hazards=wide-store fence=mfence/inline/after/all:undecided verdict=undecided
	mfence
	ret
END(wide_mask_fenced)

/* Eight bytes, read, changed and written, have the same effect. */
FUNC(wide_or)
	VCPU(%rdx)
	mov	(%rdx), %rax		# SITE save|pending-test|mask-test? width=8
	or	$0x100, %rax
	mov	%rax, (%rdx)		# SITE mask|restore width=8 hazards=wide-store+test-before-store?
	ret
END(wide_or)

FUNC(wide_or_in_place)
	VCPU(%rdx)
	orq	$1, (%rdx)		# SITE pending-set width=8 hazards=wide-store
	ret
END(wide_or_in_place)

FUNC(tested_before)
	push	%rbx
	VCPU(%rbx)
	cmpb	$0, (%rbx)		# SITE pending-test
	jne	1f
	movb	$0, MASK(%rbx)		# SITE unmask fence=lfence/callee:undecided verdict=undecided hazards=test-before-store+no-pending-test?
	call	x86_lfence
	pop	%rbx
	ret
1:	call	handler
	pop	%rbx
	ret
END(tested_before)

FUNC(not_tested)
	VCPU(%rdx)
	movb	$0, MASK(%rdx)		# SITE unmask fence=lfence/inline:undecided verdict=undecided hazards=no-pending-test tests=none exit=no
	lfence
	ret
END(not_tested)

FUNC(not_tested_plain)
	VCPU(%rdx)
	movb	$0, MASK(%rdx)		# SITE unmask hazards=no-pending-test tests=none exit=no
	xor	%eax, %eax
	ret
END(not_tested_plain)

FUNC(tested_sometimes)
	push	%rbx
	VCPU(%rbx)
	movb	$0, MASK(%rbx)		# SITE unmask hazards=no-pending-test tests=some
	test	%edi, %edi
	je	1f
	cmpb	$0, (%rbx)		# SITE pending-test
	je	1f
	call	force_callback
1:	pop	%rbx
	ret
END(tested_sometimes)

FUNC(tested_sometimes_fenced)
	push	%rbx
	VCPU(%rbx)
	movb	$0, MASK(%rbx)		# SITE unmask fence=lfence/callee/after/all:undecided verdict=undecided hazards=no-pending-test tests=some
	call	x86_lfence
	test	%edi, %edi
	je	1f
	cmpb	$0, (%rbx)		# SITE pending-test
	je	1f
	call	force_callback
1:	pop	%rbx
	ret
END(tested_sometimes_fenced)

/* The branch tests something other than the restored value. */
FUNC(restored_and_tested_sometimes)
	push	%rbx
	VCPU(%rbx)
	mov	%dil, MASK(%rbx)	# SITE restore fence=mfence/inline/after/all:undecided verdict=undecided hazards=no-pending-test tests=some
	mfence
	test	%esi, %esi
	je	1f
	cmpb	$0, (%rbx)		# SITE pending-test
	je	1f
	call	force_callback
1:	pop	%rbx
	ret
END(restored_and_tested_sometimes)

/* Returns masked on one path, restored on the other. */
FUNC(unbalanced)
	push	%rbx
	VCPU(%rbx)
	movzbl	MASK(%rbx), %ecx	# SITE save
	movb	$1, MASK(%rbx)		# SITE mask hazards=unbalanced
	test	%edi, %edi
	js	1f
	mov	%cl, MASK(%rbx)		# SITE restore tests=all hazards=unbalanced?
	cmpb	$0, (%rbx)		# SITE pending-test
	je	1f
	call	force_callback
1:	pop	%rbx
	ret
END(unbalanced)

/* May sleep between store and test: the pointer may belong to another CPU by then. */
FUNC(unstable)
	push	%rbx
	VCPU(%rbx)
	movb	$0, MASK(%rbx)		# SITE unmask tests=all pointer=unstable cpu=loaded
	call	schedule
	cmpb	$0, (%rbx)		# SITE pending-test
	pop	%rbx
	jne	force_callback
	ret
END(unstable)

FUNC(guarded)
	push	%rbx
	incl	%gs:CI_DEPTH
	VCPU(%rbx)
	movb	$0, MASK(%rbx)		# SITE unmask tests=all
	cmpb	$0, (%rbx)		# SITE pending-test
	je	1f
	call	force_callback
1:	decl	%gs:CI_DEPTH
	pop	%rbx
	ret
END(guarded)

FUNC(return_to_guest)
	add	$8, %rsp
	jmp	HYPERCALL(IRET)
END(return_to_guest)

FUNC(leave_by_jump)
	VCPU(%rsi)
	movb	$0, MASK(%rsi)		# SITE unmask hazards=no-pending-test? exit=yes
	pop	%rsi
	jmp	return_to_guest
END(leave_by_jump)

FUNC(leave_by_iret)
	VCPU(%rsi)
	movb	$0, MASK(%rsi)		# SITE unmask hazards=no-pending-test? exit=yes
	pop	%rsi
	iretq
END(leave_by_iret)

FUNC(leave_by_iret_fenced)
	VCPU(%rsi)
	movb	$0, MASK(%rsi)		# SITE unmask fence=mfence/inline/after/all:removable verdict=removable exit=yes
	mfence
	pop	%rsi
	iretq
END(leave_by_iret_fenced)

	.data
switches:	.long 0
	.section .note.GNU-stack, "", @progbits
