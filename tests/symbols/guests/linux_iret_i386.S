/* Linux' xen_iret for i386: whether events are enabled comes from the frame, and pending ones are found in a critical section. */
#include "asm.h"
#define FRAME_IF 13
#define AREA(reg) movl %ss:__per_cpu_offset(,reg,4), reg; movl %ss:xen_vcpu(reg), reg

	.text
FUNC(xen_iret)
	testl	$0x80020000, 8(%esp)
	jne	hyper_iret
	push	%eax
	movl	%fs:cpu_number, %eax
	AREA(%eax)
	testb	$2, FRAME_IF(%esp)
	setz	%ss:MASK(%eax)			# SITE restore tests=all hazards=none
xen_iret_start_crit:
	cmpw	$1, %ss:(%eax)			# SITE pending-test width=2
	jne	1f
	movb	$1, %ss:MASK(%eax)		# SITE mask hazards=none
1:	pop	%eax
iret_restore_end:
	je	xen_hypervisor_callback
	iret
xen_iret_end_crit:
hyper_iret:
	jmp	HYPERCALL(IRET)
END(xen_iret)

FUNC(xen_hypervisor_callback)
	push	$-1
	pushal
	call	xen_evtchn_do_upcall
	popal
	add	$4, %esp
	jmp	xen_iret
END(xen_hypervisor_callback)

FUNC(xen_evtchn_do_upcall)
	movl	%fs:xen_vcpu, %eax
1:	movb	$0, (%eax)			# SITE pending-clear fence=xchg/inline/after:keep verdict=keep hazards=none
	xor	%edx, %edx
	xchg	%edx, SELECTOR32(%eax)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	mov	%edx, ready
	cmpb	$0, (%eax)			# SITE pending-test
	jne	1b
	ret
END(xen_evtchn_do_upcall)

FUNC(xen_irq_disable_direct)
	movb	$1, %fs:xen_vcpu_info+MASK	# SITE mask cpu=running hazards=none
	ret
END(xen_irq_disable_direct)

FUNC(xen_irq_enable_direct)
	movb	$0, %fs:xen_vcpu_info+MASK	# SITE unmask tests=all cpu=running hazards=none
	testb	$0xff, %fs:xen_vcpu_info	# SITE pending-test
	jz	1f
	call	xen_hypervisor_callback
1:	ret
END(xen_irq_enable_direct)

/* By the pointer, and Xen delivers. */
FUNC(xen_irq_enable)
	movl	%fs:xen_vcpu, %eax
	movb	$0, MASK(%eax)			# SITE unmask tests=all callbacks=yes hazards=none
	cmpb	$0, (%eax)			# SITE pending-test
	je	1f
	push	%ebx
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
	pop	%ebx
1:	ret
END(xen_irq_enable)

	.section .percpu, "aw", @progbits
	.fill 0x1000, 1, 0
	.globl xen_vcpu, xen_vcpu_info, cpu_number
	.type xen_vcpu, @object
xen_vcpu:	.long 0
	.size xen_vcpu, 4
cpu_number:	.long 0
	.balign 64
	.type xen_vcpu_info, @object
xen_vcpu_info:	.fill 64, 1, 0
	.size xen_vcpu_info, 64
	.data
	.balign 4
	.globl __per_cpu_offset
__per_cpu_offset: .fill 8, 4, 0
ready:	.long 0
	.section .note.GNU-stack, "", @progbits
