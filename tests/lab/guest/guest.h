/* Declarations that the guest's files share. */
#ifndef GUEST_H
#define GUEST_H

#include "xen.h"

/*
 * Counters of what the guest did, each incremented where it is done, in the order printed:
 *   mask, save, restore, unmask	stores of 1, reads that are kept, stores of the kept value, stores of 0
 *   pending_found	pending tests after a restore or unmask that found the byte set
 *   force_callback	xen_version hypercalls made for that
 *   upcall, empty_upcall	entries of the event callback, and those whose selector was 0
 *   timer_set, timer_event, ping_sent, ping_event, console_sent, console_event	timeouts, events sent and handled
 *   block, yield, poll	scheduler hypercalls
 *   round	iterations of the loop that masks, works, restores and unmasks
 */
#define COUNTERS(X) \
	X(mask) X(save) X(restore) X(unmask) X(pending_found) X(force_callback) X(upcall) X(empty_upcall) \
	X(timer_set) X(timer_event) X(ping_sent) X(ping_event) X(console_sent) X(console_event) \
	X(block) X(yield) X(poll) X(round)

struct counters {
#define X(name) u64 name;
	COUNTERS(X)
#undef X
};
extern volatile struct counters counters;

/* A single instruction, so that an upcall between read and write loses no count. */
#define COUNT(name) __asm__ volatile("incq %0" : "+m"(counters.name))

/* The running CPU's data, reached through %gs as in NetBSD. */
struct cpu_info {
	struct cpu_info *ci_self;
	u64 ci_id;
	struct vcpu_info *ci_vcpu;
};

static inline struct vcpu_info *this_vcpu(void)
{
	struct cpu_info *cpu;
	__asm__("movq %%gs:0, %0" : "=r"(cpu));
	return cpu->ci_vcpu;
}

extern struct shared_info shared_info;
extern void hypervisor_callback(void), failsafe_callback(void), syscall_callback(void);

/* mask.c: the sites. */
void upcalls_mask(void);
u8 upcalls_save(void);
void upcalls_restore(u8 mask);
void upcalls_unmask(void);

/* events.c */
void events_start(struct vcpu_info *vcpu);
void events_open(u32 port);
u32 events_bind_virq(u32 virq);
void events_send(u32 port);
void events_log(u64 most);
void events_print_log(void);
void evtchn_upcall(void);

/* timer.c */
u64 now_ns(void);
void timer_start(u64 period_ns, u64 duration_ns);
int timer_ticks(void);
int timer_over(void);
void timer_event(u32 port);

/* ping.c */
enum role { ROLE_NONE, ROLE_LISTEN, ROLE_CONNECT, ROLE_SELF };
#define UNKNOWN (~0ul)
void ping_start(enum role role, u64 peer, u64 port, u64 pings);
int ping_done(void);
void ping_event(u32 port);

/* console.c */
void console_start(const struct start_info *info);
void console_event(u32 port);
char *console_line(void);
void console_notify(void);
void console_drain(void);
void print(const char *text);
void print_number(u64 number);
void map_page(void *address, u64 machine);
_Noreturn void shut_down(u32 reason);
_Noreturn void refuse(const char *what, const char *which);

#endif
