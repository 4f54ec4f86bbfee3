/*
 * Symbols and text as kernels have them: functions of size 0, labels inside functions, aliases,
 * overlapping ranges, strings and tables in the code.
 */
#include "asm.h"
#define SELF 0x20
#define CI_VCPU 0x2a8
#define VCPU(register) mov %gs:SELF, register; mov CI_VCPU(register), register

	.text
UNSIZED(unsized_mask)
	VCPU(%rax)
	movb	$1, MASK(%rax)		# SITE mask fence=lfence/tail-jump:removable verdict=removable
	jmp	unsized_fence
UNSIZED(unsized_fence)
	lfence
	ret

UNSIZED(unsized_unmask)
	VCPU(%rax)
	movb	$0, MASK(%rax)		# SITE unmask tests=all
	cmpb	$0, (%rax)		# SITE pending-test
	jne	force_callback
	ret

FUNC(force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	jmp	HYPERCALL(XEN_VERSION)	# SITE force-callback
END(force_callback)

/* A label inside a function that is jumped to: the pointer is still in %rbx there. */
FUNC(labelled)
	push	%rbx
	VCPU(%rbx)
	test	%edi, %edi
	jne	labelled_slow
	movb	$1, MASK(%rbx)		# SITE mask fence=mfence/inline verdict=removable
	mfence
labelled_out:
	movb	$0, MASK(%rbx)		# SITE unmask tests=all
	cmpb	$0, (%rbx)		# SITE pending-test
	pop	%rbx
	jne	force_callback
	ret
labelled_slow:
	movb	$1, MASK(%rbx)		# SITE mask
	jmp	labelled_out
END(labelled)

FUNC(aliased)
	.globl aliased_too, other_name
	.type aliased_too, @function
	.type other_name, @function
aliased_too:
other_name:
	VCPU(%rax)
	movb	$1, MASK(%rax)		# SITE mask aliases=aliased,aliased_too,other_name
	ret
END(aliased)
	.size aliased_too, . - aliased_too
	.size other_name, . - other_name

/* One function's range is inside another's. */
FUNC(outer)
	VCPU(%rdx)
	movb	$1, MASK(%rdx)		# SITE mask
	.globl inner
	.type inner, @function
inner:
	VCPU(%rcx)
	movb	$0, MASK(%rcx)		# SITE unmask tests=all
	cmpb	$0, (%rcx)		# SITE pending-test
	.size inner, . - inner
	jne	force_callback
	ret
END(outer)

/* A message after a call that does not return; decoded as code, its bytes would swallow what follows. */
FUNC(panics)
	lea	1f(%rip), %rdi
	call	panic
1:	.asciz "unexpected upcall: \351\350\350\271"
	.byte 0xe9
UNSIZED(after_text)
	VCPU(%rax)
	movb	$1, MASK(%rax)		# SITE mask
	ret

FUNC(panic)
	hlt
	jmp panic
END(panic)

/* Bytes after a function that decode as a site but are not reachable. */
	.byte 0x65, 0x48, 0x8b, 0x04, 0x25, 0x20, 0, 0, 0
	.byte 0x48, 0x8b, 0x80, 0xa8, 0x02, 0, 0
	.byte 0xc6, 0x40, 0x01, 0x01
	.byte 0xc3

/* The same bytes after a string, within an object's symbol. */
	.globl message
	.type message, @object
message:
	.asciz "lost %d"
	.byte 0x65, 0x48, 0x8b, 0x04, 0x25, 0x20, 0, 0, 0
	.byte 0x48, 0x8b, 0x80, 0xa8, 0x02, 0, 0
	.byte 0xc6, 0x40, 0x01, 0x01
	.byte 0xc3
	.size message, . - message

/* Jump tables, in .rodata and right after the jump. */
FUNC(switched)
	push	%rbx
	VCPU(%rbx)
	cmp	$3, %edi
	ja	4f
	mov	%edi, %edi
	jmp	*table(,%rdi,8)
0:	movb	$1, MASK(%rbx)		# SITE mask
	jmp	4f
1:	movb	$0, MASK(%rbx)		# SITE unmask tests=all hazards=unbalanced?
	cmpb	$0, (%rbx)		# SITE pending-test
	je	4f
	call	force_callback
	jmp	4f
2:	movzbl	MASK(%rbx), %eax	# SITE save
	jmp	4f
3:	movb	$1, (%rbx)		# SITE pending-set
4:	pop	%rbx
	ret
	.section .rodata, "a"
	.balign 8
table:	.quad 0b, 1b, 2b, 3b
	.text
END(switched)

FUNC(switched_in_text)
	push	%rbx
	VCPU(%rbx)
	mov	%edi, %edi
	jmp	*1f(,%rdi,8)
	.balign 8
1:	.quad 2f, 3f
2:	movb	$1, MASK(%rbx)		# SITE mask
3:	pop	%rbx
	ret
END(switched_in_text)

FUNC(handler)
	VCPU(%rdx)
	movb	$0, (%rdx)		# SITE pending-clear
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rdx)	# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	ret
END(handler)

	.section .init.text, "ax"
FUNC(early_mask)
	VCPU(%rax)
	movb	$1, MASK(%rax)		# SITE mask
	ret
END(early_mask)
	.section .note.GNU-stack, "", @progbits
