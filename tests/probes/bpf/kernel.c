/*
 * Calls functions with the names and arguments of those that the programs are attached to, a given number
 * of times; uprobes replace kprobes.  usage: kernel UPCALLS PORTS SENDS
 */
#include <stdlib.h>
#include <time.h>

#define KEEP __attribute__((noinline, noclone, used))

volatile unsigned long sink;

KEEP void xen_irq_lateeoi(unsigned irq, unsigned flags) { sink += irq + flags; }
KEEP void notify_remote_via_irq(int irq) { sink += irq; }
KEEP void xen_send_IPI_one(unsigned cpu, int vector) { sink += cpu + vector; }
KEEP void evtchn_interrupt(int irq, void *data) { sink += irq + (unsigned long)data; }

KEEP void privcmd_ioctl(void *file, unsigned command, unsigned long data)
{
	sink += (unsigned long)file + command + data;
}

/* Spin for at least this long, by the clock that the programs read. */
static void spin(long ns)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - begin.tv_sec) * 1000000000L + now.tv_nsec - begin.tv_nsec < ns);
}

KEEP void handle_irq_for_port(unsigned port, void *control)
{
	spin(20000);
	evtchn_interrupt(port + 100, control);
	sink += port;
}

KEEP void xen_evtchn_do_upcall(int ports, int nested)
{
	int port;

	for (port = 0; port < ports; port++)
		handle_irq_for_port(port + 7, 0);
	if (nested)
		xen_evtchn_do_upcall(1, nested - 1);
}

int main(int count, char **words)
{
	int upcalls = atoi(words[1]), ports = atoi(words[2]), sends = atoi(words[3]), i;

	for (i = 0; i < upcalls; i++)
		xen_evtchn_do_upcall(ports, i == 0);
	for (i = 0; i < sends; i++)
		notify_remote_via_irq(i % 3 + 40);
	for (i = 0; i < 13; i++) {
		xen_send_IPI_one(1, 2);
		xen_irq_lateeoi(45, 0);
	}
	for (i = 0; i < 17; i++)
		privcmd_ioctl(0, 0x305000 + i % 2 * 5, 0);
	return sink == 42;
}
