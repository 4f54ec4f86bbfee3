/* Handlers that lose an event: no fence in this image may be removed, and no locked access replaced. */
#include "asm.h"
#define SELF 0x10
#define CI_VCPU 0x1b0
#define VCPU(reg) mov %gs:SELF, reg; mov CI_VCPU(reg), reg

	.text
FUNC(mask)
	VCPU(%rax)
	movb	$1, MASK(%rax)		# SITE mask fence=lfence/inline:undecided verdict=undecided
	lfence
	ret
END(mask)

FUNC(mask_by_xchg)
	VCPU(%rdx)
	mov	$1, %eax
	xchg	%al, MASK(%rdx)		# SITE mask fence=xchg/inline/access:undecided verdict=undecided
	ret
END(mask_by_xchg)

FUNC(unmask)
	VCPU(%rax)
	movb	$0, MASK(%rax)		# SITE unmask fence=mfence/inline:undecided verdict=undecided tests=all
	mfence
	cmpb	$0, (%rax)		# SITE pending-test
	jne	force_callback
	ret
END(unmask)

FUNC(unmask_plain)
	VCPU(%rax)
	movb	$0, MASK(%rax)		# SITE unmask tests=all
	cmpb	$0, (%rax)		# SITE pending-test
	jne	force_callback
	ret
END(unmask_plain)

FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(force_callback)

FUNC(takes_first)
	VCPU(%rbx)
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rbx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	movb	$0, (%rbx)		# SITE pending-clear hazards=take-before-clear
	mov	%rax, %rdi
	jmp	handle
END(takes_first)

FUNC(clears_last)
	push	%rbx
	VCPU(%rbx)
	xor	%edi, %edi
	xchg	%rdi, SELECTOR(%rbx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	call	handle
	movb	$0, (%rbx)		# SITE pending-clear hazards=take-before-clear
	pop	%rbx
	ret
END(clears_last)

/* A page fault that only clears. */
FUNC(clears_only)
	VCPU(%rbx)
	movb	$0, (%rbx)		# SITE pending-clear hazards=clear-without-take
	incq	faults(%rip)
	ret
END(clears_only)

FUNC(clears_and_reads)
	VCPU(%rbx)
	movb	$0, (%rbx)		# SITE pending-clear hazards=unlocked-handler
	mov	SELECTOR(%rbx), %rdi	# SITE selector-take
	movq	$0, SELECTOR(%rbx)	# SITE selector-set hazards=unlocked-handler
	jmp	handle
END(clears_and_reads)

FUNC(clears_and_fences_loads)
	VCPU(%rbx)
	movb	$0, (%rbx)		# SITE pending-clear hazards=unlocked-handler fence=lfence/inline/after:keep
	lfence
	mov	SELECTOR(%rbx), %rdi	# SITE selector-take
	movq	$0, SELECTOR(%rbx)	# SITE selector-set hazards=unlocked-handler
	jmp	handle
END(clears_and_fences_loads)

FUNC(handle)
	test	%rdi, %rdi
	je	1f
	incq	events(%rip)
1:	ret
END(handle)

	.data
faults:	.quad 0
events:	.quad 0
	.section .note.GNU-stack, "", @progbits
