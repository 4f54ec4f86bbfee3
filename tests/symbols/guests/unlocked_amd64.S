/* A handler that takes the selector without a locked access: no fence in this image may be removed. */
#include "asm.h"
#define SELF 0x10
#define CI_VCPU 0x1b0

	.text
FUNC(mask)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$1, MASK(%rax)		# SITE mask fence=lfence/inline:undecided verdict=undecided
	lfence
	ret
END(mask)

FUNC(unmask)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$0, MASK(%rax)		# SITE unmask fence=mfence/inline:undecided verdict=undecided tests=all
	mfence
	cmpb	$0, (%rax)		# SITE pending-test
	jne	force_callback
	ret
END(unmask)

FUNC(unmask_plain)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rax
	movb	$0, MASK(%rax)		# SITE unmask tests=all
	cmpb	$0, (%rax)		# SITE pending-test
	jne	force_callback
	ret
END(unmask_plain)

/* Xen tests pending on the return to the guest, but the handler may lose the event. */
FUNC(leave_by_iret)
	mov	%gs:SELF, %rsi
	mov	CI_VCPU(%rsi), %rsi
	movb	$0, MASK(%rsi)		# SITE unmask fence=lfence/inline:undecided verdict=undecided exit=yes
	lfence
	pop	%rsi
	iretq
END(leave_by_iret)

FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(force_callback)

FUNC(handler)
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rdx
	movb	$0, (%rdx)		# SITE pending-clear hazards=unlocked-handler
	mov	SELECTOR(%rdx), %rax	# SITE selector-take hazards=unlocked-handler?
	movq	$0, SELECTOR(%rdx)	# SITE selector-set hazards=unlocked-handler
	ret
END(handler)
	.section .note.GNU-stack, "", @progbits
