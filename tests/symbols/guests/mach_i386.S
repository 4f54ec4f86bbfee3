/*
 * GNU Mach on Xen: the page hyp_shared_info, 0xff as the mask, and pending events handled by hand; whether a handler
 * already runs is asked first, and the interrupt that asks then tests pending before it ends.
 */
#include "asm.h"
#define PAGE hyp_shared_info
#define CLI movb $0xff, PAGE+MASK

	.text
FUNC(hyp_c_callback)
	push	%ebx
	movb	$0, PAGE			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	jmp	2f
1:	bsf	%eax, %ecx
	btr	%ecx, %eax
	mov	PAGE+0x800(,%ecx,4), %ebx
	test	%ebx, %ebx
	je	3f
	lock btr %ebx, PAGE+0x800
3:	test	%eax, %eax
	jne	1b
2:	xor	%eax, %eax
	xchg	%eax, PAGE+SELECTOR32		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	test	%eax, %eax
	jne	1b
	pop	%ebx
	ret
END(hyp_c_callback)

FUNC(interrupt)
	incl	int_active
	call	hyp_c_callback
	decl	int_active
	call	hyp_sti
	ret
END(interrupt)

FUNC(hyp_sti)
	push	%ebp
	mov	%esp, %ebp
.Lhyp_sti:
	movb	$0, PAGE+MASK			# SITE unmask tests=some hazards=no-pending-test cpu=fixed
	cmpl	$0, int_active
	je	0f
	pop	%ebp
	ret
0:	cmpb	$0, PAGE			# SITE pending-test
	jne	0f
	pop	%ebp
	ret
0:	movb	$0xff, PAGE+MASK		# SITE mask hazards=none
1:	push	%eax
	push	%ecx
	push	%edx
	incl	int_active
	push	$0
	push	$0
	call	hyp_c_callback
	pop	%edx
	pop	%edx
	pop	%edx
	pop	%ecx
	pop	%eax
	decl	int_active
	cmpb	$0, PAGE			# SITE pending-test
	jne	1b
	jmp	.Lhyp_sti
END(hyp_sti)

/* spl0 falls through names of its own; each level masks, and returns so. */
FUNC(spl0)
	lock addl $0, (%esp)
	mov	curr_ipl, %eax
	push	%eax
	CLI					# SITE mask hazards=none
	cmpl	$0, softclkpending
	je	1f
	movl	$0, softclkpending
	call	spl1
	call	softclock
	CLI					# SITE mask hazards=none
1:	cmpl	$0, curr_ipl
	je	1f
	movl	$0, curr_ipl
1:	call	hyp_sti
	pop	%eax
	ret
END(spl0)

FUNC(spl1)
	.globl	spl2
spl2:
	.globl	splhigh
splhigh:
	lock addl $0, (%esp)
	CLI					# SITE mask fence=lock_add/inline/before:removable verdict=removable hazards=none
	mov	$7, %eax
	xchg	%eax, curr_ipl
	ret
END(spl1)

FUNC(splx)
	mov	4(%esp), %edx
	test	%edx, %edx
	je	spl0
	cmp	curr_ipl, %edx
	jne	spl
	cmp	$7, %edx
	je	1f
	call	hyp_sti
1:	mov	%edx, %eax
	ret
END(splx)

FUNC(splx_cli)
	mov	4(%esp), %edx
	CLI					# SITE mask hazards=none
	test	%edx, %edx
	jne	2f
	cmpl	$0, softclkpending
	je	1f
	movl	$0, softclkpending
	call	spl1
	call	softclock
	CLI					# SITE mask hazards=none
1:	xor	%edx, %edx
2:	cmp	curr_ipl, %edx
	je	1f
	mov	%edx, curr_ipl
1:	ret
END(splx_cli)

FUNC(spl)
	cmp	$7, %edx
	je	spl1
	CLI					# SITE mask hazards=none
	xchg	curr_ipl, %edx
	call	hyp_sti
	mov	%edx, %eax
	ret
END(spl)

FUNC(sploff)
	movzbl	PAGE+MASK, %eax			# SITE save
	CLI					# SITE mask hazards=none
	ret
END(sploff)

FUNC(machine_idle)
	CLI					# SITE mask hazards=none
	push	%ebx
	mov	$1, %ebx
	xor	%ecx, %ecx
	call	HYPERCALL(29)
	pop	%ebx
	ret
END(machine_idle)

FUNC(softclock)
	incl	curr_ipl
	ret
END(softclock)

	.data
	.balign	4
int_active: .long 0
curr_ipl: .long 0
softclkpending: .long 0
	.bss
	.globl	hyp_shared_info
	.type	hyp_shared_info, @object
	.balign	4096
hyp_shared_info: .skip 4096
	.size	hyp_shared_info, 4096
	.section .note.GNU-stack, "", @progbits
