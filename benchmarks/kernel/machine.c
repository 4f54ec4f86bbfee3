/* The single parts of the benchmark's kernel: the fence, the hypercall page, the handler, the note for Xen. */
#include "machine.h"

__asm__(".pushsection .text.page, \"ax\", @progbits\n"
	".globl hypercall_page\n"
	".balign 4096\nhypercall_page: .skip 4096, 0xc3\n"
	".popsection\n"
	".pushsection .note.Xen, \"a\", @note\n"
	".long 4, 7, 6\n.asciz \"Xen\"\n.asciz \"NetBSD\"\n.balign 4\n"
	".long 4, 8, 2\n.asciz \"Xen\"\n.quad hypercall_page\n"
	".popsection\n");

noinline void x86_lfence(void)
{
	__asm__ volatile("lfence" ::: "memory");
}

noinline void force_callback(void)
{
	unsigned long result, command = 0, argument = 0;

	__asm__ volatile("call hypercall_page+17*32"
			 : "=a"(result), "+D"(command), "+S"(argument)
			 :
			 : "memory", "cc");
}

noinline void handle(struct vcpu_info *info)
{
	info->pending = 0;
	while (__atomic_exchange_n(&info->selector, 0, __ATOMIC_SEQ_CST))
		barrier();
}

void start(void)
{
	int before = enter_masked();

	handle(curcpu()->ci_vcpu);
	leave_masked(before);
}
