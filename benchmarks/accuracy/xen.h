/* The hypervisor's half: it sends events from another CPU, and delivers them on the guest's. */
#ifndef XEN_H
#define XEN_H

#include <stdint.h>

struct xen_counts {
	volatile uint64_t sent, merged, kick, interrupt, delivery, masked;
};
extern struct xen_counts xen_counts;

/* Make the calling thread the vCPU; then send events to it from `cpu` at random times, on average `period_ns` apart. */
void xen_start(int cpu, uint64_t period_ns);
void xen_stop(void);
/* Nonzero if an event was sent and not handled, or upcalls are still masked. */
int xen_pending(void);
void pin(int cpu);
_Noreturn void refuse(const char *what);

#endif
