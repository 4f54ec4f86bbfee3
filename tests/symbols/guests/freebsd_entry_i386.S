/*
 * FreeBSD's PV kernel for i386 with SMP: the number of the CPU is in its private area; doreti falls through into
 * scrit, and goes back into the handler from there.
 */
#include "asm.h"
#define CPUID 0x20
#define CURTHREAD 0
#define GET(reg) movl %fs:CPUID, reg; shl $6, reg; addl HYPERVISOR_shared_info, reg

	.text
FUNC(force_evtchn_callback)
	push	%ebx
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
	pop	%ebx
	ret
END(force_evtchn_callback)

FUNC(evtchn_do_upcall)
	push	%ebx
	GET(%ebx)
	movb	$0, (%ebx)			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	xor	%eax, %eax
	xchg	%eax, SELECTOR32(%ebx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	mov	%eax, ready
	pop	%ebx
	ret
END(evtchn_do_upcall)

/* Registers of its callers are kept around what __cli and __sti change. */
FUNC(ni_cli)
	push	%edx
	push	%eax
	GET(%eax)
	movb	$1, MASK(%eax)			# SITE mask pointer=unstable hazards=none cpu=loaded
	pop	%eax
	pop	%edx
	ret
END(ni_cli)

FUNC(ni_sti)
	push	%edx
	push	%esi
	push	%eax
	GET(%eax)
	movb	$0, MASK(%eax)			# SITE unmask tests=all pointer=unstable hazards=none cpu=loaded
	cmpb	$0, (%eax)			# SITE pending-test
	je	1f
	call	force_evtchn_callback
1:	pop	%eax
	pop	%esi
	pop	%edx
	ret
END(ni_sti)

/* The number is 0 until the CPU's area is there. */
FUNC(xen_cli_early)
	xor	%eax, %eax
	cmpl	$0, gdtset
	je	1f
	movl	%fs:CPUID, %eax
1:	shl	$6, %eax
	addl	HYPERVISOR_shared_info, %eax
	movb	$1, MASK(%eax)			# SITE mask pointer=unstable hazards=none
	ret
END(xen_cli_early)

FUNC(xen_restore_flags)
	movl	4(%esp), %edx
	GET(%eax)
	movb	%dl, MASK(%eax)			# SITE restore tests=all pointer=unstable hazards=none
	testb	%dl, %dl
	jne	1f
	cmpb	$0, (%eax)			# SITE pending-test
	jne	force_evtchn_callback
1:	ret
END(xen_restore_flags)

FUNC(xen_save_and_cli)
	GET(%eax)
	movzbl	MASK(%eax), %ecx		# SITE save
	movb	$1, MASK(%eax)			# SITE mask pointer=unstable hazards=none
	movl	4(%esp), %edx
	movl	%ecx, (%edx)
	ret
END(xen_save_and_cli)

	.globl	Xhypervisor_callback
	.type	Xhypervisor_callback, @function
Xhypervisor_callback:
	push	$0
	push	$0
	pushal
	push	%ds
	push	%es
	push	%fs
call_evtchn_upcall:
	movl	0x38(%esp), %eax
	cmpl	$scrit, %eax
	jb	10f
	cmpl	$ecrit, %eax
	jb	critical_region_fixup
10:	push	%esp
	call	evtchn_do_upcall
	add	$4, %esp
	jmp	doreti
hypervisor_callback_pending:
	GET(%esi)
	movb	$1, MASK(%esi)			# SITE mask pointer=unstable hazards=none
	jmp	10b
	.balign	16
	.globl	alltraps
	.type	alltraps, @function
alltraps:
	pushal
	push	%ds
	push	%es
	push	%fs
	push	%esp
	call	trap
	add	$4, %esp
	jmp	doreti

	.balign	16
	.type	doreti, @function
doreti:
	testb	$2, 0x3c(%esp)
	je	doreti_exit
doreti_ast:
	GET(%esi)
	movb	$1, MASK(%esi)			# SITE mask pointer=unstable hazards=none
	movl	%fs:CURTHREAD, %eax
	testl	$0x10800, 0x70(%eax)
	je	doreti_exit
	GET(%esi)
	movb	$0, MASK(%esi)			# SITE unmask tests=none pointer=unstable hazards=no-pending-test
	push	%esp
	call	trap
	add	$4, %esp
	jmp	doreti_ast
doreti_exit:
	GET(%esi)
	movb	$0, MASK(%esi)			# SITE unmask tests=all pointer=unstable hazards=none
	.globl	scrit
scrit:	testb	$0xff, (%esi)			# SITE pending-test
	jne	hypervisor_callback_pending
	.globl	doreti_popl_fs
doreti_popl_fs:
	pop	%fs
	.globl	doreti_popl_es
doreti_popl_es:
	pop	%es
	.globl	doreti_popl_ds
doreti_popl_ds:
	pop	%ds
	pop	%edi
	pop	%esi
	pop	%ebp
	pop	%ebx
	pop	%ebx
	pop	%edx
	pop	%ecx
	pop	%eax
	add	$8, %esp
	.globl	doreti_iret
doreti_iret:
	jmp	HYPERCALL(IRET)
	.globl	ecrit
ecrit:
	.balign	16
	.globl	critical_region_fixup
critical_region_fixup:
	addl	$fixup_table, %eax
	subl	$scrit, %eax
	movzbl	(%eax), %eax
	mov	%esp, %esi
	add	%eax, %esi
	mov	%esp, %edi
	add	$0x40, %edi
	mov	%eax, %ecx
	shr	$2, %ecx
	je	16f
15:	sub	$4, %esi
	sub	$4, %edi
	mov	(%esi), %eax
	mov	%eax, (%edi)
	loop	15b
16:	mov	%edi, %esp
	jmp	hypervisor_callback_pending

FUNC(trap)
	incl	ready
	ret
END(trap)

	.section .rodata
fixup_table: .byte 0, 0, 0, 0, 0, 4, 8
	.data
	.balign	4
ready:	.long	0
gdtset:	.long	0
	.globl	HYPERVISOR_shared_info
	.type	HYPERVISOR_shared_info, @object
HYPERVISOR_shared_info: .long 0
	.size	HYPERVISOR_shared_info, 4
	.section .note.GNU-stack, "", @progbits
