/*
 * The part of Xen's interface to x86-64 PV domains that this guest uses, written independently.
 *
 * Numbers and layouts: xen/include/public/{xen,event_channel,sched,vcpu,elfnote,io/console}.h and
 * arch-x86/xen-x86_64.h of Xen 4.17.
 */
#ifndef GUEST_XEN_H
#define GUEST_XEN_H

#define XEN_SET_CALLBACKS 4
#define XEN_UPDATE_VA_MAPPING 14
#define XEN_VERSION 17
#define XEN_CONSOLE_IO 18
#define XEN_IRET 23
#define XEN_VCPU_OP 24
#define XEN_SET_SEGMENT_BASE 25
#define XEN_SCHED_OP 29
#define XEN_EVENT_CHANNEL_OP 32
#define XEN_HYPERCALL_BYTES 32

#define NOTE_ENTRY 1
#define NOTE_HYPERCALL_PAGE 2
#define NOTE_VIRT_BASE 3
#define NOTE_PADDR_OFFSET 4
#define NOTE_XEN_VERSION 5
#define NOTE_GUEST_OS 6
#define NOTE_GUEST_VERSION 7
#define NOTE_LOADER 8
#define NOTE_FEATURES 10

#ifndef __ASSEMBLER__

#define PAGE_BYTES 4096
#define DOMID_SELF 0x7ff0
#define SIF_INITDOMAIN 2
#define SEGBASE_GS_KERNEL 2
#define UVMF_INVLPG 2
#define PTE_PRESENT_WRITABLE_USER 7

#define VIRQ_TIMER 0
#define VIRQ_CONSOLE 2
#define EVTCHNOP_BIND_INTERDOMAIN 0
#define EVTCHNOP_BIND_VIRQ 1
#define EVTCHNOP_SEND 4
#define EVTCHNOP_ALLOC_UNBOUND 6
#define SCHEDOP_YIELD 0
#define SCHEDOP_BLOCK 1
#define SCHEDOP_SHUTDOWN 2
#define SCHEDOP_POLL 3
#define SHUTDOWN_POWEROFF 0
#define SHUTDOWN_CRASH 3
#define VCPUOP_STOP_PERIODIC_TIMER 7
#define VCPUOP_SET_SINGLESHOT_TIMER 8
#define CONSOLEIO_WRITE 0
#define CONSOLEIO_READ 1

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

struct vcpu_time_info {
	u32 version, pad;
	u64 tsc_timestamp, system_time_ns;
	u32 tsc_to_system_mul;
	signed char tsc_shift;
	u8 flags, pad1[2];
};

struct vcpu_info {
	volatile u8 evtchn_upcall_pending, evtchn_upcall_mask;
	volatile u64 evtchn_pending_sel;
	u64 arch[2];
	volatile struct vcpu_time_info time;
};
_Static_assert(sizeof(struct vcpu_info) == 64, "vcpu_info");

struct shared_info {
	struct vcpu_info vcpu_info[32];
	volatile u64 evtchn_pending[64], evtchn_mask[64];
	u8 rest[PAGE_BYTES - 32 * 64 - 2 * 64 * 8];
};
_Static_assert(sizeof(struct shared_info) == PAGE_BYTES, "shared_info");

struct start_info {
	char magic[32];
	u64 nr_pages, shared_info_machine;
	u32 flags;
	u64 store_mfn;
	u32 store_port;
	u64 console_mfn;
	u32 console_port;
	u64 pt_base, nr_pt_frames, mfn_list, mod_start, mod_len;
	char cmd_line[1024];
};
_Static_assert(__builtin_offsetof(struct start_info, cmd_line) == 128, "start_info");

struct console_ring {
	char in[1024], out[2048];
	volatile u32 in_cons, in_prod, out_cons, out_prod;
};

struct evtchn_alloc_unbound { u16 dom, remote_dom; u32 port; };
struct evtchn_bind_interdomain { u16 remote_dom; u32 remote_port, local_port; };
struct evtchn_bind_virq { u32 virq, vcpu, port; };
struct vcpu_set_singleshot_timer { u64 timeout_abs_ns; u32 flags; };
struct sched_poll { u32 *ports; u32 port_count; u64 timeout_abs_ns; };

/* Make a hypercall through the page that the domain builder filled; surplus arguments are harmless. */
static inline __attribute__((always_inline)) long hypercall(int number, u64 a, u64 b, u64 c)
{
	long result;
	__asm__ volatile("call hypercall_page + %c[offset]"
			 : "=a"(result), "+D"(a), "+S"(b), "+d"(c)
			 : [offset] "i"(number * XEN_HYPERCALL_BYTES)
			 : "rcx", "r11", "memory");
	return result;
}

#endif
#endif
