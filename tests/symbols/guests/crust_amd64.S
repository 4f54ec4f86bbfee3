/* As CRust-OS' libxen does it: a page shared_info, and barriers for stores around the mask, with no pending test. */
#include "asm.h"

	.text
FUNC(enable_upcalls)
	movzbl	shared_info+MASK(%rip), %eax	# SITE save
	sfence
	movb	$0, shared_info+MASK(%rip)	# SITE unmask fence=sfence/inline/before:undecided+sfence/inline/after:undecided verdict=undecided tests=none hazards=no-pending-test cpu=fixed
	sfence
	ret
END(enable_upcalls)

FUNC(disable_upcalls)
	movzbl	shared_info+MASK(%rip), %eax	# SITE save
	movb	$1, shared_info+MASK(%rip)	# SITE mask fence=sfence/inline/after:removable verdict=removable
	sfence
	ret
END(disable_upcalls)

FUNC(enable_and_deliver)
	sfence
	movb	$0, shared_info+MASK(%rip)	# SITE unmask fence=sfence/inline/before:removable+sfence/inline/after:removable verdict=removable tests=all callbacks=yes
	sfence
	cmpb	$0, shared_info(%rip)		# SITE pending-test
	je	1f
	xor	%edi, %edi
	xor	%esi, %esi
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
1:	ret
END(enable_and_deliver)

FUNC(another_enable)
	movb	$0, shared_info+MASK(%rip)	# SITE unmask tests=all
	cmpb	$0, shared_info(%rip)		# SITE pending-test
	je	1f
	incq	late(%rip)
1:	ret
END(another_enable)

FUNC(handle)
	movb	$0, shared_info(%rip)		# SITE pending-clear fence=xchg/inline/after/all:keep verdict=keep
	xor	%eax, %eax
	xchg	%rax, shared_info+SELECTOR(%rip)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	ret
END(handle)

	.data
late:	.quad 0
	.bss
	.globl shared_info
	.type shared_info, @object
	.balign 4096
shared_info:	.skip 4096
	.size shared_info, 4096
	.section .note.GNU-stack, "", @progbits
