/* Forms that assembly and compilers make of the same few accesses. */
#include "asm.h"
#define SELF 0x10
#define CI_VCPU 0x1b0
#define VCPU(reg) mov %gs:SELF, reg; mov CI_VCPU(reg), reg

	.text
FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(force_callback)

FUNC(restore_by_xchg)
	VCPU(%rdx)
	mov	%edi, %eax
	xchg	%al, MASK(%rdx)		# SITE restore fence=xchg/inline/access:replaceable verdict=replaceable tests=all
	test	%dil, %dil
	jne	1f
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	force_callback
1:	ret
END(restore_by_xchg)

FUNC(mask_by_xchg)
	VCPU(%rdx)
	mov	$1, %eax
	xchg	%al, MASK(%rdx)		# SITE mask fence=xchg/inline/access:replaceable verdict=replaceable
	ret
END(mask_by_xchg)

FUNC(mask_by_or)
	VCPU(%rdx)
	lock orb $1, MASK(%rdx)		# SITE mask fence=lock_or/inline/access:replaceable verdict=replaceable
	ret
END(mask_by_or)

FUNC(mask_by_bts)
	VCPU(%rdx)
	lock btsl $8, (%rdx)		# SITE mask fence=lock_bts/inline/access:replaceable verdict=replaceable width=4
	ret
END(mask_by_bts)

FUNC(unmask_by_btr)
	VCPU(%rdx)
	lock btrl $8, (%rdx)		# SITE unmask fence=lock_btr/inline/access:replaceable verdict=replaceable tests=all
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	force_callback
	ret
END(unmask_by_btr)

FUNC(unmask_by_btr_untested)
	VCPU(%rdx)
	lock btrl $8, (%rdx)		# SITE unmask fence=lock_btr/inline/access:undecided verdict=undecided tests=none hazards=no-pending-test
	ret
END(unmask_by_btr_untested)

FUNC(unmask_by_sub)
	VCPU(%rdx)
	lock subb $1, MASK(%rdx)	# SITE unmask fence=lock_sub/inline/access:replaceable verdict=replaceable tests=all
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	force_callback
	ret
END(unmask_by_sub)

FUNC(unmask_by_locked_word)
	VCPU(%rdx)
	lock andw $0xff, (%rdx)		# SITE unmask fence=lock_and/inline/access:replaceable verdict=replaceable tests=all callbacks=yes
	jz	1f
	call	force_callback
1:	ret
END(unmask_by_locked_word)

/* Linux had this: the word is not locked, so it can erase what another CPU has just set. */
FUNC(unmask_by_word)
	VCPU(%rdx)
	andw	$0xff, (%rdx)		# SITE unmask hazards=wide-store tests=all callbacks=yes width=2
	jz	1f
	call	force_callback
1:	ret
END(unmask_by_word)

FUNC(restore_by_cmpxchg)
	VCPU(%rdx)
	mov	$1, %eax
	lock cmpxchgb %dil, MASK(%rdx)	# SITE restore fence=lock_cmpxchg/inline/access:replaceable verdict=replaceable tests=all
	test	%dil, %dil
	jne	1f
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	force_callback
1:	ret
END(restore_by_cmpxchg)

/* As compilers write an atomic OR whose result is used. */
FUNC(mask_in_a_loop)
	VCPU(%rdx)
	movzbl	MASK(%rdx), %eax	# SITE save|mask-test
1:	mov	%eax, %ecx
	or	$1, %ecx
	lock cmpxchgb %cl, MASK(%rdx)	# SITE mask fence=lock_cmpxchg/inline/access:replaceable verdict=replaceable
	jne	1b
	ret
END(mask_in_a_loop)

FUNC(restore_by_setcc)
	VCPU(%rdx)
	test	$0x200, %edi
	sete	MASK(%rdx)		# SITE restore tests=all
	je	1f
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	force_callback
1:	ret
END(restore_by_setcc)

FUNC(restore_by_setcc_untested)
	VCPU(%rdx)
	test	$0x200, %edi
	sete	MASK(%rdx)		# SITE restore tests=none hazards=no-pending-test
	ret
END(restore_by_setcc_untested)

/* As a compiler merges two byte stores of constants. */
FUNC(mask_and_clear)
	VCPU(%rdx)
	movzwl	both(%rip), %eax
	mov	%ax, (%rdx)		# SITE mask hazards=wide-store width=2
	ret
END(mask_and_clear)

/* Falls through to a label that is a function. */
FUNC(unmask_and_fall)
	VCPU(%rdx)
	movb	$0, MASK(%rdx)		# SITE unmask tests=all callbacks=yes
FUNC(fallen_to)
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	force_callback
	ret
END(fallen_to)

/* The compiler's padding before a function is not a way into it. */
FUNC(stops)
	VCPU(%rdx)
	movb	$0, MASK(%rdx)		# SITE unmask tests=none hazards=no-pending-test
	ud2
FUNC(after_stops)
	VCPU(%rdx)
	cmpb	$0, (%rdx)		# SITE pending-test
	jne	force_callback
	ret
END(after_stops)

FUNC(masked_below_flags)
	push	%rbx
	VCPU(%rbx)
	pushfq
	pushw	%cx
	pushw	$3
	mov	%rbx, -8(%rsp)
	mov	-8(%rsp), %rax
	add	$4, %rsp
	popfq
	movb	$1, MASK(%rax)		# SITE mask
	pop	%rbx
	ret
END(masked_below_flags)

/* Profiling entry: it must not call anything, and does not test. */
FUNC(mcount)
	push	%rax
	push	%rdx
	VCPU(%rax)
	movzbl	MASK(%rax), %edx	# SITE save
	VCPU(%rax)
	movb	$1, MASK(%rax)		# SITE mask fence=lfence/inline/after:removable verdict=removable
	lfence
	incq	counter(%rip)
	VCPU(%rax)
	mov	%dl, MASK(%rax)		# SITE restore fence=lfence/inline/after:undecided verdict=undecided tests=none hazards=no-pending-test
	lfence
	pop	%rdx
	pop	%rax
	ret
END(mcount)

FUNC(take)
	VCPU(%rdi)
	movb	$0, (%rdi)		# SITE pending-clear fence=xchg/inline/after:keep verdict=keep
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdi)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	ret
END(take)

FUNC(take_by_cmpxchg)
	VCPU(%rdi)
	movb	$0, (%rdi)		# SITE pending-clear fence=lock_cmpxchg/inline/after:keep verdict=keep
	mov	SELECTOR(%rdi), %rax	# SITE debug-read?
	xor	%ecx, %ecx
	lock cmpxchg %rcx, SELECTOR(%rdi)	# SITE selector-take fence=lock_cmpxchg/inline/access:keep verdict=keep
	ret
END(take_by_cmpxchg)

	.section .rodata
both:	.byte 0, 1
	.data
counter:	.quad 0
	.section .note.GNU-stack, "", @progbits
