/* clock.c - prints the clocks that count from a host's start, and watches how they go on. */
#include "service.h"
#include <sys/syscall.h>
#include <time.h>

static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME };
static const char *const names[] = { "monotonic", "boottime" };
enum { CLOCKS = sizeof clocks / sizeof *clocks };

static double last[CLOCKS], ahead[CLOCKS], back[CLOCKS]; /* seconds: the largest steps in both directions */
static long ticks;

static double seconds(struct timespec time)
{
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* As the C library does: without a system call, by pages that the kernel maps and a restore has to get right. */
static double read_clock(int i)
{
	struct timespec time;

	clock_gettime(clocks[i], &time);
	return seconds(time);
}

static double ask_kernel(int i)
{
	struct timespec time;

	syscall(SYS_clock_gettime, clocks[i], &time);
	return seconds(time);
}

static void clock_start(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (int i = 0; i < CLOCKS; i++)
		last[i] = read_clock(i);
}

static void clock_tick(void)
{
	for (int i = 0; i < CLOCKS; i++) {
		double now = read_clock(i), step = now - last[i];

		if (step > ahead[i])
			ahead[i] = step;
		if (-step > back[i])
			back[i] = -step;
		last[i] = now;
	}
	if (ticks++ % 20 == 0)
		dprintf(1, "monotonic %.2f boottime %.2f\n", last[0], last[1]);
}

static void clock_verify(void)
{
	for (int i = 0; i < CLOCKS; i++) {
		double before = ask_kernel(i), now = read_clock(i), after = ask_kernel(i);

		if (now < before || now > after)
			fail("%s: %f by the library, %f and %f by the kernel", names[i], now, before, after);
		say("%s=%.0f %s_ahead=%.0f %s_back=%.0f", names[i], now, names[i], ahead[i], names[i], back[i]);
	}
}

const struct shape clock_shape = { "clock", "", clock_start, clock_tick, clock_verify, NULL };
