/*
 * NetBSD's interrupt priorities on amd64: CLI, STI and STIC in loops that go on by a jump through a register,
 * returns to the guest by hypercall, and the functions in C as link-time optimisation inlines them.
 */
#include "asm.h"
#define SELF 0x20
#define CI_ILEVEL 0x38
#define CI_IPENDING 0x3c
#define CI_DEPTH 0x44
#define CI_SOURCES 0x60
#define CI_VCPU 0x290
#define IS_RECURSE 0x18
#define IS_RESUME 0x20
#define VCPU(reg) mov %gs:SELF, reg; mov CI_VCPU(reg), reg
#define CLI(reg) VCPU(reg); movb $1, MASK(reg)
#define STI(reg) VCPU(reg); movb $0, MASK(reg)

	.text
FUNC(x86_lfence)
	lfence
	ret
END(x86_lfence)

FUNC(hypervisor_force_callback)
	xor	%edi, %edi
	xor	%esi, %esi
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
	ret
END(hypervisor_force_callback)

FUNC(x86_disable_intr)
	CLI(%rax)				# SITE mask fence=lfence/tail-jump/after:removable verdict=removable hazards=none
	jmp	x86_lfence
END(x86_disable_intr)

FUNC(x86_enable_intr)
	push	%rbx
	VCPU(%rbx)
	movb	$0, MASK(%rbx)			# SITE unmask fence=lfence/callee/after/all:removable verdict=removable tests=all callbacks=yes hazards=none
	call	x86_lfence
	cmpb	$0, (%rbx)			# SITE pending-test
	pop	%rbx
	jne	hypervisor_force_callback
	ret
END(x86_enable_intr)

FUNC(x86_read_psl)
	VCPU(%rax)
	movzbl	MASK(%rax), %eax		# SITE save
	ret
END(x86_read_psl)

/* Tests pending first, and then whether it opened the mask at all. */
FUNC(x86_write_psl)
	push	%rbp
	mov	%rsp, %rbp
	push	%r12
	push	%rbx
	mov	%rdi, %r12
	mov	%gs:SELF, %rbx
	mov	CI_VCPU(%rbx), %rax
	mov	%dil, MASK(%rax)		# SITE restore fence=lfence/callee/after/all:removable verdict=removable tests=all callbacks=yes hazards=none
	call	x86_lfence
	mov	CI_VCPU(%rbx), %rax
	movzbl	(%rax), %eax			# SITE pending-test
	test	%al, %al
	je	1f
	test	%r12, %r12
	jne	1f
	call	hypervisor_force_callback
1:	pop	%rbx
	pop	%r12
	pop	%rbp
	ret
END(x86_write_psl)

/* Xspllower: an interrupt source's code is entered masked, and comes back through r13. */
FUNC(Xspllower)
	push	%rbx
	push	%r13
	push	%r12
	mov	%edi, %ebx
	lea	1f(%rip), %r13
1:	mov	%ebx, %eax
	CLI(%rsi)				# SITE mask hazards=none
	mov	%gs:CI_IPENDING, %ecx
	shr	%cl, %eax
	and	%gs:CI_IPENDING, %eax
	je	2f
	bsr	%eax, %eax
	btr	%eax, %gs:CI_IPENDING
	mov	%gs:CI_SOURCES(,%rax,8), %rax
	jmp	*IS_RECURSE(%rax)
2:	mov	%ebx, %gs:CI_ILEVEL
	VCPU(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask tests=all hazards=none
	testb	$0xff, (%rsi)			# SITE pending-test
	je	4f
	call	stipending
	test	%eax, %eax
	jne	1b
4:	pop	%r12
	pop	%r13
	pop	%rbx
	ret
END(Xspllower)

/* Entered masked. */
FUNC(Xdoreti)
	pop	%rbx
	decl	%gs:CI_DEPTH
.Ldoreti_again:
	lea	.Ldoreti_resume(%rip), %r13
.Ldoreti_resume:
	mov	%ebx, %eax
	and	%gs:CI_IPENDING, %eax
	je	2f
	bsr	%eax, %eax
	btr	%eax, %gs:CI_IPENDING
	mov	%gs:CI_SOURCES(,%rax,8), %rax
	jmp	*IS_RESUME(%rax)
2:	mov	%ebx, %gs:CI_ILEVEL
	testb	$3, 0x88(%rsp)
	je	6f
	.globl	doreti_checkast
doreti_checkast:
	mov	%gs:0x28, %r14
	cmpl	$0, 0x64(%r14)
	je	6f
	STI(%rsi)				# SITE unmask tests=none hazards=no-pending-test
	movl	$33, 0x78(%rsp)
	mov	%rsp, %rdi
	call	trap
	CLI(%rsi)				# SITE mask hazards=none
	jmp	doreti_checkast
6:	VCPU(%rsi)
	movb	$0, MASK(%rsi)			# SITE unmask tests=all hazards=none
	testb	$0xff, (%rsi)			# SITE pending-test
	je	4f
	call	stipending
	test	%eax, %eax
	je	4f
	CLI(%rsi)				# SITE mask hazards=none
	jmp	.Ldoreti_again
4:	mov	(%rsp), %rdi
	mov	8(%rsp), %rsi
	add	$0x98, %rsp
	push	$0
	jmp	HYPERCALL(IRET)
END(Xdoreti)

/* A source's handlers run unmasked, and go back to where spllower or doreti said. */
FUNC(Xrecurse_evt)
	mov	%gs:CI_ILEVEL, %r12d
	movl	$7, %gs:CI_ILEVEL
	STI(%rsi)				# SITE unmask tests=none hazards=no-pending-test
	mov	0x30(%rax), %rbx
6:	mov	0x10(%rbx), %rdi
	mov	%rsp, %rsi
	call	*0x8(%rbx)
	mov	0x20(%rbx), %rbx
	test	%rbx, %rbx
	jne	6b
	CLI(%rsi)				# SITE mask hazards=none
	jmp	*%r13
END(Xrecurse_evt)

FUNC(stipending)
	push	%rbp
	mov	%rsp, %rbp
	push	%r12
	push	%rbx
	xor	%r12d, %r12d
	mov	%gs:SELF, %rax
	mov	CI_VCPU(%rax), %rbx
	jmp	2f
1:	call	x86_disable_intr
	movb	$0, (%rbx)			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	xor	%eax, %eax
	xchg	%rax, SELECTOR(%rbx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep hazards=none
	mov	%rax, %rdi
	call	evt_iterate
	or	%eax, %r12d
	call	x86_enable_intr
2:	movzbl	(%rbx), %eax			# SITE pending-test
	test	%al, %al
	jne	1b
	mov	%r12d, %eax
	pop	%rbx
	pop	%r12
	pop	%rbp
	ret
END(stipending)

/* spllower with all that it calls inlined: the other side of the branch unmasks in assembly. */
FUNC(spllower)
	mov	%gs:SELF, %rdx
	cmp	%edi, CI_ILEVEL(%rdx)
	jbe	3f
	mov	CI_VCPU(%rdx), %rcx
	movzbl	MASK(%rcx), %esi		# SITE save
	mov	CI_VCPU(%rdx), %rcx
	movb	$1, MASK(%rcx)			# SITE mask fence=lfence/inline/after:removable verdict=removable hazards=none
	lfence
	test	%edi, CI_IPENDING(%rdx)
	jne	Xspllower
	mov	%edi, CI_ILEVEL(%rdx)
	mov	CI_VCPU(%rdx), %rcx
	mov	%sil, MASK(%rcx)		# SITE restore fence=lfence/inline/after/all:removable verdict=removable tests=all hazards=none
	lfence
	mov	CI_VCPU(%rdx), %rcx
	cmpb	$0, (%rcx)			# SITE pending-test
	je	3f
	test	%sil, %sil
	je	hypervisor_force_callback
3:	ret
END(spllower)

/* Blocks with upcalls masked, which Xen undoes, or unmasks. */
FUNC(x86_cpu_idle_xen)
	push	%rbx
	mov	%gs:SELF, %rbx
	mov	CI_VCPU(%rbx), %rax
	movb	$1, MASK(%rax)			# SITE mask hazards=none
	cmpl	$0, 0x50(%rbx)
	jne	1f
	mov	$1, %edi
	xor	%esi, %esi
	pop	%rbx
	jmp	HYPERCALL(29)
1:	pop	%rbx
	jmp	x86_enable_intr
END(x86_cpu_idle_xen)

/* The kernel stops: it stays masked. */
FUNC(cpu_reboot)
	test	%edi, %edi
	je	1f
	call	x86_enable_intr
1:	CLI(%rax)				# SITE mask hazards=none
	call	shutdown
	ud2
END(cpu_reboot)

FUNC(shutdown)
1:	hlt
	jmp	1b
END(shutdown)

FUNC(trap)
	incl	traps(%rip)
	ret
END(trap)

FUNC(evt_iterate)
	mov	%edi, %eax
	ret
END(evt_iterate)

	.data
traps:	.long	0
	.section .note.GNU-stack, "", @progbits
