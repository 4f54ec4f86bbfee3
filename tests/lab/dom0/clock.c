/* Times and markers for a recording in dom0.
 *
 *   clock pairs N           N lines "TSC CLOCK_MONOTONIC_ns TSC"
 *   clock marks CMD N       N harmless hypercalls vcpu_op(CMD, 0xbeef0000 + i), and for each a
 *                           line "TSC i TSC"; Xen refuses them and records both arguments
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

/* Linux, include/uapi/xen/privcmd.h */
struct privcmd_hypercall {
    uint64_t op;
    uint64_t arg[5];
};
#define IOCTL_PRIVCMD_HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))
#define HYPERVISOR_VCPU_OP 24
#define FIRST_MARK 0xbeef0000u

static int pairs(unsigned long count)
{
    for (unsigned long i = 0; i < count; i++) {
        struct timespec now;
        uint64_t before = __rdtsc();
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t after = __rdtsc();
        printf("%lu %lu %lu\n", before, now.tv_sec * 1000000000ul + now.tv_nsec, after);
    }
    return 0;
}

static int marks(unsigned long cmd, unsigned long count)
{
    int xen = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
    if (xen < 0) {
        perror("clock: /dev/xen/privcmd");
        return 1;
    }
    for (unsigned long i = 0; i < count; i++) {
        struct privcmd_hypercall call = { HYPERVISOR_VCPU_OP, { cmd, FIRST_MARK + i } };
        uint64_t before = __rdtsc();
        int result = ioctl(xen, IOCTL_PRIVCMD_HYPERCALL, &call);
        uint64_t after = __rdtsc();
        if (result >= 0 || (errno != ENOENT && errno != EINVAL)) {
            fprintf(stderr, "clock: Xen did not refuse marker %lu: %d %s\n", i, result, strerror(errno));
            return 1;
        }
        printf("%lu %lu %lu\n", before, i, after);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "pairs"))
        return pairs(strtoul(argv[2], NULL, 0));
    if (argc == 4 && !strcmp(argv[1], "marks"))
        return marks(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0));
    fputs("usage: clock pairs N | clock marks CMD N\n", stderr);
    return 2;
}
