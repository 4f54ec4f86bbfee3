/* The guest's knobs and its main loop: rounds of mask, work, restore and unmask, with ticks and pings meanwhile. */
#include "guest.h"

#define NS_PER_US 1000ul
#define NS_PER_S 1000000000ul

/* Knobs, on the command line and in lines from the console. */
static u64 seconds, loops, work = 1000, burst, yield, timer_us, pings = 1009, peer = UNKNOWN, port = UNKNOWN, log;
static enum role role;
static int quit;

static const struct { const char *name; u64 *value; } knobs[] = {
	{"seconds", &seconds}, {"loops", &loops}, {"work", &work}, {"burst", &burst}, {"yield", &yield}, {"timer", &timer_us},
	{"pings", &pings}, {"peer", &peer}, {"port", &port}, {"log", &log},
};
static const char *const roles[] = {"none", "listen", "connect", "self"};

static int equal(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

static void copy_counters(struct counters *copy)
{
#define X(name) copy->name = counters.name;
	COUNTERS(X)
#undef X
}

static void print_counters(const struct counters *copy)
{
	const char *before = "xtrace-guest: counters {\"";
#define X(name) print(before), print(#name "\": "), print_number(copy->name), before = ", \"";
	COUNTERS(X)
#undef X
	print("}\n");
}

/* Print the counters, copied with upcalls masked so that all are from one moment. */
static void report(void)
{
	struct counters copy;
	u8 mask = upcalls_save();
	copy_counters(&copy);
	upcalls_restore(mask);
	print_counters(&copy);
	console_notify();
}

static void set_knob(const char *name, const char *text)
{
	if (equal(name, "role"))
		for (u32 i = 0; i < sizeof(roles) / sizeof(*roles); i++)
			if (equal(text, roles[i])) {
				role = i;
				return;
			}
	for (u32 i = 0; i < sizeof(knobs) / sizeof(*knobs); i++)
		if (equal(name, knobs[i].name) && *text) {
			u64 number = 0;
			for (; *text >= '0' && *text <= '9'; text++)
				number = number * 10 + (*text - '0');
			if (!*text) {
				*knobs[i].value = number;
				return;
			}
		}
	refuse("cannot understand the knob ", name);
}

/* Execute the words of a line: knob=value, report, quit. */
static void obey(char *line)
{
	while (*line) {
		char *word = line, *value = 0;
		for (; *line && *line != ' '; line++)
			if (*line == '=' && !value) {
				*line = 0;
				value = line + 1;
			}
		if (*line)
			*line++ = 0;
		if (value)
			set_knob(word, value);
		else if (equal(word, "report"))
			report();
		else if (equal(word, "quit"))
			quit = 1;
		else if (*word)
			refuse("cannot understand the word ", word);
	}
}

/* Sleep, unless there were upcalls since the count was read: one of them may be what the caller waits for. */
static void wait(u64 upcalls)
{
	upcalls_mask();
	if (counters.upcall == upcalls) {
		COUNT(block);
		hypercall(XEN_SCHED_OP, SCHEDOP_BLOCK, 0, 0);
	} else {
		upcalls_unmask();
	}
}

static __attribute__((noinline)) void work_on(u64 turns)
{
	for (u64 i = 0; i < turns; i++)
		__asm__ volatile("");
}

/* Mask three times (once while masked), restore twice, unmask once. */
static void do_round(void)
{
	upcalls_mask();
	work_on(work);
	u8 masked = upcalls_save();
	work_on(work);
	upcalls_restore(masked);
	upcalls_unmask();
	work_on(work);
	u8 open = upcalls_save();
	work_on(work);
	upcalls_restore(open);
	COUNT(round);
}

static void run(void)
{
	while (!quit) {
		u64 upcalls = counters.upcall;
		char *line = console_line();
		if (line)
			obey(line);
		ping_start(role, peer, port, pings);
		if (counters.round < loops || !timer_over()) {
			do_round();
			if (yield && counters.round % yield == 0) {
				COUNT(yield);
				hypercall(XEN_SCHED_OP, SCHEDOP_YIELD, 0, 0);
			}
			if (burst && counters.round % burst == 0 && timer_ticks())
				wait(upcalls);
		} else if (role && !ping_done()) {
			wait(upcalls);
		} else {
			return;
		}
	}
}

void guest_main(struct start_info *info)
{
	struct counters copy;

	map_page(&shared_info, info->shared_info_machine);
	events_start(&shared_info.vcpu_info[0]);
	console_start(info);
	obey(info->cmd_line);
	events_log(log);
	print("xtrace-guest: start fence=" FENCE_NAME " place=" PLACE_NAME "\n");
	console_notify();
	timer_start(timer_us * NS_PER_US, seconds * NS_PER_S);
	upcalls_unmask();
	run();
	/* Upcalls stay masked from here on, as at the start, so that the printed counters are final. */
	upcalls_mask();
	copy_counters(&copy);
	events_print_log();
	print_counters(&copy);
	print("xtrace-guest: done\n");
	shut_down(SHUTDOWN_POWEROFF);
}

void shut_down(u32 reason)
{
	if (reason != SHUTDOWN_CRASH)
		console_drain();
	for (;;)
		hypercall(XEN_SCHED_OP, SCHEDOP_SHUTDOWN, (u64)&reason, 0);
}

void refuse(const char *what, const char *which)
{
	print("xtrace-guest: error: ");
	print(what);
	print(which);
	print("\n");
	console_drain();
	shut_down(SHUTDOWN_CRASH);
}
