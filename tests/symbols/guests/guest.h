/*
 * Definitions shared by the C guests: the layout from Xen's public header, the fences and the hypercall.
 *
 * Expectations are on the line of the statement, see tests/builders/expected.py.
 */
#include <stddef.h>
#include <stdint.h>

#ifdef __x86_64__
#define SEGMENT "gs"
#define PER_CPU __seg_gs
#define ARCH_WORDS 2
#define WORD "q"
#define CALLBACK_OPERANDS "=a"(result), "+D"(command), "+S"(argument)
#else
#define SEGMENT "fs"
#define PER_CPU __seg_fs
#define ARCH_WORDS 6
#define WORD "l"
#define CALLBACK_OPERANDS "=a"(result), "+b"(command), "+c"(argument)
#endif

struct vcpu_time {
	uint32_t version, pad;
	uint64_t tsc, system;
	uint32_t scale;
	int8_t shift, flags[3];
};

struct vcpu_info {
	volatile uint8_t pending, mask;
	volatile unsigned long selector;
	unsigned long arch[ARCH_WORDS];
	volatile struct vcpu_time time;
};
_Static_assert(sizeof(struct vcpu_info) == 64, "as in xen.h");

#define noinline __attribute__((noinline, noclone))
#define inlined static inline __attribute__((always_inline))
#define barrier() __asm__ volatile("" ::: "memory")

noinline void x86_lfence(void)
{
	__asm__ volatile("lfence" ::: "memory");
}

noinline void x86_mfence(void)
{
	__asm__ volatile("mfence" ::: "memory");
}

noinline void force_callback(void)
{
	unsigned long result, command = 0, argument = 0;

	__asm__ volatile("call hypercall_page+17*32" : CALLBACK_OPERANDS :: "memory", "cc");	/* SITE force-callback */
}

extern void outside(void);
extern volatile unsigned long events;

inlined unsigned long take(struct vcpu_info *v)
{
	return __atomic_exchange_n(&v->selector, 0, __ATOMIC_SEQ_CST);	/* SITE selector-take fence=xchg/inline/access:keep verdict=keep */
}
