// What the processor does with a handler's accesses, on two pinned CPUs.
//
// A: P := 0, a fence or none, take S.  B: lock or S with 1, then xchg P with 1.  P starts as 1.
// If B read P as 1 it sends no IPI: then A must have taken its bit, or the event is lost.
//
// Usage: hardware ROUNDS.  Prints one line a program: its name, whether the loss is forbidden, and how often each
// outcome (bit taken or not, IPI sent or not) was seen, zeros included.

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { SLOTS = 4096 };

struct slot {
    _Alignas(64) volatile unsigned p;
    _Alignas(64) volatile unsigned s;
    _Alignas(64) unsigned taken;
    _Alignas(64) unsigned was;
    // B wrote it last, so A's store to it, and the stores after it, stay in the store buffer for longer.
    _Alignas(64) volatile unsigned cold;
};

static struct slot slots[SLOTS];
static atomic_uint arrived, phase;

static unsigned exchange(volatile unsigned *cell, unsigned value)
{
    __asm__ volatile("xchgl %0,%1" : "+r"(value), "+m"(*cell) : : "memory");
    return value;
}

#define HANDLER(name, fence, take)                           \
    static void name(struct slot *one)                       \
    {                                                        \
        one->cold = 1;                                       \
        one->p = 0;                                          \
        __asm__ volatile(fence : : : "memory");              \
        one->taken = take;                                   \
    }

HANDLER(by_xchg, "", exchange(&one->s, 0))
HANDLER(after_mfence, "mfence", one->s)
HANDLER(after_lock, "lock; addl $0,-64(%%rsp)", one->s)
HANDLER(after_lfence, "lfence", one->s)
HANDLER(by_load, "", one->s)

static const struct program {
    const char *name;
    int forbidden;
    void (*run)(struct slot *);
} programs[] = {
    {"xchg", 1, by_xchg},
    {"mfence", 1, after_mfence},
    {"lock", 1, after_lock},
    {"lfence", 0, after_lfence},
    {"none", 0, by_load},
};

static long rounds;
static unsigned long counts[sizeof programs / sizeof *programs][2][2];

static void meet(void)
{
    unsigned now = atomic_load(&phase);
    if (atomic_fetch_add(&arrived, 1) == 1) {
        atomic_store(&arrived, 0);
        atomic_fetch_add(&phase, 1);
        return;
    }
    for (unsigned spins = 0; atomic_load(&phase) == now; spins++)
        if (spins > 4000000)
            sched_yield();
}

static void send(struct slot *one)
{
    __asm__ volatile("lock; orl $1,%0" : "+m"(one->s) : : "memory");
    one->was = exchange(&one->p, 1);
}

static void *thread(void *argument)
{
    int second = argument != NULL;
    for (unsigned which = 0; which < sizeof programs / sizeof *programs; which++) {
        for (long done = 0; done < rounds; done += SLOTS) {
            if (!second)
                for (int i = 0; i < SLOTS; i++)
                    slots[i].p = 1, slots[i].s = 0;
            if (second)
                for (int i = 0; i < SLOTS; i++)
                    slots[i].cold = 0;
            meet();
            for (int i = 0; i < SLOTS; i++) {
                if (second)
                    send(&slots[i]);
                else
                    programs[which].run(&slots[i]);
            }
            meet();
            if (!second)
                for (int i = 0; i < SLOTS; i++)
                    counts[which][slots[i].taken][!slots[i].was]++;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    rounds = argc > 1 ? atol(argv[1]) : 1000000;
    cpu_set_t allowed;
    int cpus[2], found = 0;
    sched_getaffinity(0, sizeof allowed, &allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
        if (CPU_ISSET(cpu, &allowed))
            cpus[found++] = cpu;
    if (found < 2) {
        fprintf(stderr, "hardware: needs two CPUs\n");
        return 2;
    }
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        pthread_attr_t attributes;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpus[i], &one);
        pthread_attr_init(&attributes);
        pthread_attr_setaffinity_np(&attributes, sizeof one, &one);
        if (pthread_create(&threads[i], &attributes, thread, i ? (void *)1 : NULL))
            return 1;
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (unsigned which = 0; which < sizeof programs / sizeof *programs; which++)
        printf("%s %s lost %lu taken-without-ipi %lu left-with-ipi %lu taken-with-ipi %lu\n", programs[which].name,
               programs[which].forbidden ? "forbidden" : "allowed", counts[which][0][0], counts[which][1][0],
               counts[which][0][1], counts[which][1][1]);
    return 0;
}
