/*
 * The console: the ring shared with xenconsoled, or Xen's own console if this is the initial domain.
 *
 * Written and read only outside upcalls: an upcall just counts that there may be something to read.
 */
#include "guest.h"

#define LINE_BYTES 256
#define NAP_NS 1000000

static struct console_ring ring __attribute__((aligned(PAGE_BYTES)));
static u32 console_port;
static int xens_own;
static char line[LINE_BYTES];
static u32 line_bytes;
/* Not 0 at the start: input from before the guest's upcalls were on has to be read without an upcall. */
static u64 events_seen = UNKNOWN;

void map_page(void *address, u64 machine)
{
	if (hypercall(XEN_UPDATE_VA_MAPPING, (u64)address, machine | PTE_PRESENT_WRITABLE_USER, UVMF_INVLPG))
		shut_down(SHUTDOWN_CRASH);
}

void console_start(const struct start_info *info)
{
	xens_own = !!(info->flags & SIF_INITDOMAIN);
	if (xens_own) {
		console_port = events_bind_virq(VIRQ_CONSOLE);
	} else {
		map_page(&ring, info->console_mfn * PAGE_BYTES);
		console_port = info->console_port;
		events_open(console_port);
	}
}

void console_event(u32 port)
{
	if (port == console_port)
		COUNT(console_event);
}

/* Notify xenconsoled that the guest has printed or read something. */
void console_notify(void)
{
	if (xens_own)
		return;
	COUNT(console_sent);
	events_send(console_port);
}

/* Give xenconsoled some time: with a timeout and not an event, because upcalls may be masked here. */
static void nap(void)
{
	struct sched_poll poll = {.timeout_abs_ns = now_ns() + NAP_NS};
	COUNT(poll);
	hypercall(XEN_SCHED_OP, SCHEDOP_POLL, (u64)&poll, 0);
}

static void write(const char *text, u32 bytes)
{
	if (xens_own) {
		hypercall(XEN_CONSOLE_IO, CONSOLEIO_WRITE, bytes, (u64)text);
		return;
	}
	for (u32 i = 0; i < bytes; i++) {
		while (ring.out_prod - ring.out_cons == sizeof(ring.out)) {
			console_notify();
			nap();
		}
		ring.out[ring.out_prod % sizeof(ring.out)] = text[i];
		/* The other end may read as soon as it sees the index: x86 does not reorder stores, nor may the compiler. */
		__asm__ volatile("" : : : "memory");
		ring.out_prod++;
	}
}

static u32 read(char *text, u32 most)
{
	u32 bytes = 0;
	if (xens_own)
		return hypercall(XEN_CONSOLE_IO, CONSOLEIO_READ, most, (u64)text);
	while (bytes < most && ring.in_cons != ring.in_prod) {
		text[bytes++] = ring.in[ring.in_cons % sizeof(ring.in)];
		ring.in_cons++;
	}
	return bytes;
}

/* Return a line of input without its line end; 0 if there is none. */
char *console_line(void)
{
	if (events_seen == counters.console_event)
		return 0;
	u64 events = counters.console_event;
	while (read(line + line_bytes, 1)) {
		char last = line[line_bytes];
		if (last == '\n' || last == '\r') {
			line[line_bytes] = 0;
			line_bytes = 0;
			console_notify();
			return line;
		}
		if (++line_bytes == LINE_BYTES)
			refuse("a line is too long", "");
	}
	events_seen = events;
	return 0;
}

/* Wait until xenconsoled has read everything: what is left at shutdown may be lost. */
void console_drain(void)
{
	console_notify();
	while (!xens_own && ring.out_cons != ring.out_prod)
		nap();
}

void print(const char *text)
{
	u32 bytes = 0;
	while (text[bytes])
		bytes++;
	write(text, bytes);
}

void print_number(u64 number)
{
	char digits[20];
	u32 first = sizeof(digits);
	do
		digits[--first] = '0' + number % 10;
	while (number /= 10);
	write(digits + first, sizeof(digits) - first);
}
