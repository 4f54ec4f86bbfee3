/*
 * The sites: mask, save, restore and unmask, with the fence chosen at build time.
 *
 * FENCE is the fence's instruction ("" for none); OUT_OF_LINE puts it into a separate function, which
 * a build without a fence calls too, so that the cost of the call alone can be measured.
 */
#include "guest.h"

#ifdef OUT_OF_LINE
__attribute__((noinline)) void fence(void)
#else
static inline __attribute__((always_inline)) void fence(void)
#endif
{
	/* Every variant clobbers %rax, so that the code around the fence is the same in all. */
	__asm__ volatile(FENCE : : : "memory", "cc", "rax");
}

static __attribute__((noinline)) void force_callback(void)
{
	COUNT(force_callback);
	hypercall(XEN_VERSION, 0, 0, 0);
}

void upcalls_mask(void)
{
	struct vcpu_info *vcpu = this_vcpu();
	COUNT(mask);
	vcpu->evtchn_upcall_mask = 1;
	fence();
}

u8 upcalls_save(void)
{
	struct vcpu_info *vcpu = this_vcpu();
	COUNT(save);
	COUNT(mask);
	u8 mask = vcpu->evtchn_upcall_mask;
	vcpu->evtchn_upcall_mask = 1;
	fence();
	return mask;
}

void upcalls_restore(u8 mask)
{
	struct vcpu_info *vcpu = this_vcpu();
	COUNT(restore);
	vcpu->evtchn_upcall_mask = mask;
	fence();
	if (mask == 0 && vcpu->evtchn_upcall_pending) {
		COUNT(pending_found);
		force_callback();
	}
}

void upcalls_unmask(void)
{
	struct vcpu_info *vcpu = this_vcpu();
	COUNT(unmask);
	vcpu->evtchn_upcall_mask = 0;
	fence();
	if (vcpu->evtchn_upcall_pending) {
		COUNT(pending_found);
		force_callback();
	}
}
