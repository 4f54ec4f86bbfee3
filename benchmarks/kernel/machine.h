/* Included by every unit of the benchmark's kernel: masking as in NetBSD, with fences out of line. */
#define barrier() __asm__ volatile("" ::: "memory")
#define noinline __attribute__((noinline, noclone))

struct vcpu_info {
	volatile unsigned char pending, mask;
	volatile unsigned long selector;
	unsigned long arch[6];
};

struct cpu_info {
	char ci_first[0x20];
	struct cpu_info *ci_self;	/* %gs points to the structure itself */
	char ci_other[0x128];
	struct vcpu_info *ci_vcpu;
	int ci_depth;
};

void x86_lfence(void);
void force_callback(void);
void handle(struct vcpu_info *);

static inline struct cpu_info *curcpu(void)
{
	struct cpu_info *found;

	__asm__ volatile("mov %%gs:0x20, %0" : "=r"(found));
	return found;
}

static inline int enter_masked(void)
{
	struct vcpu_info *info = curcpu()->ci_vcpu;
	int before = info->mask;

	info->mask = 1;
	x86_lfence();
	return before;
}

static inline void leave_masked(int before)
{
	struct vcpu_info *info = curcpu()->ci_vcpu;

	barrier();
	info->mask = before;
	x86_lfence();
	if (!before && info->pending)
		force_callback();
}

static inline void unmask(void)
{
	struct vcpu_info *info = curcpu()->ci_vcpu;

	barrier();
	info->mask = 0;
	x86_lfence();
	if (info->pending)
		force_callback();
}
