/* As Linux does it on i386: a per-CPU area at %fs, calls with arguments in registers. */
#include "asm.h"

	.text
FUNC(xen_irq_disable_direct)
	movb	$1, %fs:xen_vcpu_info+MASK	# SITE mask cpu=running
	ret
END(xen_irq_disable_direct)

FUNC(xen_irq_enable_direct)
	movb	$0, %fs:xen_vcpu_info+MASK	# SITE unmask tests=all cpu=running
	testb	$0xff, %fs:xen_vcpu_info	# SITE pending-test
	jz	1f
	call	check_events
1:	ret
END(xen_irq_enable_direct)

FUNC(check_events)
	push	%eax
	push	%ecx
	push	%edx
	call	xen_force_evtchn_callback
	pop	%edx
	pop	%ecx
	pop	%eax
	ret
END(check_events)

FUNC(xen_force_evtchn_callback)
	push	%ebx
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	call	HYPERCALL(XEN_VERSION)		# SITE force-callback
	pop	%ebx
	ret
END(xen_force_evtchn_callback)

FUNC(xen_save_fl_direct)
	testb	$0xff, %fs:xen_vcpu_info+MASK	# SITE save
	setz	%ah
	addb	%ah, %ah
	ret
END(xen_save_fl_direct)

FUNC(xen_restore_fl_direct)
	testb	$0x2, %ah
	setz	%fs:xen_vcpu_info+MASK		# SITE restore tests=all
	cmpw	$1, %fs:xen_vcpu_info		# SITE pending-test width=2
	jne	1f
	call	check_events
1:	ret
END(xen_restore_fl_direct)

FUNC(xen_irq_enable)
	mov	%fs:xen_vcpu, %eax
	movb	$0, MASK(%eax)			# SITE unmask tests=all fence=mfence/inline/after/all verdict=removable
	mfence
	cmpb	$0, (%eax)			# SITE pending-test
	jne	xen_force_evtchn_callback
	ret
END(xen_irq_enable)

FUNC(mask_of_cpu)
	mov	__per_cpu_offset(,%eax,4), %edx
	mov	xen_vcpu(%edx), %eax
	movb	$1, MASK(%eax)			# SITE mask cpu=other
	ret
END(mask_of_cpu)

FUNC(xen_do_upcall)
	push	%ebx
	mov	%fs:xen_vcpu, %ebx
1:	movb	$0, (%ebx)			# SITE pending-clear
	xor	%eax, %eax
	xchg	%eax, SELECTOR32(%ebx)		# SITE selector-take fence=xchg/inline/access:keep verdict=keep
	cmpb	$0, (%ebx)			# SITE pending-test
	jne	1b
	pop	%ebx
	ret
END(xen_do_upcall)

	.section .percpu, "aw", @progbits
	.fill 0x1000, 1, 0
	.globl xen_vcpu, xen_vcpu_info
	.type xen_vcpu, @object
xen_vcpu:	.long 0
	.size xen_vcpu, 4
	.balign 64
	.type xen_vcpu_info, @object
xen_vcpu_info:	.fill 64, 1, 0
	.size xen_vcpu_info, 64
	.data
	.balign 4
	.globl __per_cpu_offset
__per_cpu_offset: .fill 8, 4, 0
	.section .note.GNU-stack, "", @progbits
