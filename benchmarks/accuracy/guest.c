/* The guest except for its loops: the fence, the sites as functions, the upcall. */
#include "guest.h"

struct guest_counts guest_counts;

#ifdef OUT_OF_LINE
noinline void x86_fence(void)
{
	__asm__ volatile(FENCE ::: "memory", "cc", "rax");
}
#endif

noinline void upcalls_mask(void)
{
	struct vcpu_info *vcpu = this_vcpu();

	vcpu->evtchn_upcall_mask = 1;
	fence();
}

noinline void upcalls_unmask(void)
{
	struct vcpu_info *vcpu = this_vcpu();

	barrier();
	vcpu->evtchn_upcall_mask = 0;
	fence();
	if (vcpu->evtchn_upcall_pending)
		force_callback();
}

noinline void force_callback(void)
{
	unsigned long result, command = 0, argument = 0;

	COUNT(guest_counts.forced_callback);
	__asm__ volatile("call hypercall_page+17*32"
		: "=a"(result), "+D"(command), "+S"(argument) :
		: "memory", "cc", "rcx", "rdx", "r8", "r9", "r10", "r11");
}

noinline void upcall(void)
{
	struct vcpu_info *vcpu = this_vcpu();
	unsigned long selector;

	COUNT(guest_counts.upcall);
	vcpu->evtchn_upcall_pending = 0;
	selector = __atomic_exchange_n(&vcpu->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
	guest_counts.event += (uint64_t)__builtin_popcountl(selector);
}
