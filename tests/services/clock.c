/*
 * clock.c - prints the clocks that count from a host's start, and watches how they go on.
 *
 * At the word "exec" it starts another such program, at port 7001, which the word "child" asks.
 */
#include "service.h"
#include <arpa/inet.h>
#include <netinet/in.h>
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

static void execute_another(int unused)
{
	(void)unused;
	setenv("PORT", "7001", 1);
	execl("/services/service", "service", "clock", NULL);
	cannot("exec");
}

static void ask_child(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(7001), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int sock = -1, tries = 500;
	char line[512] = "";

	for (; tries && (sock < 0 || connect(sock, (void *)&address, sizeof address)); tries--) {
		if (sock >= 0)
			close(sock);
		sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		nap();
	}
	if (write(sock, "verify\n", 7) != 7 || read(sock, line, sizeof line - 1) <= 3 || strncmp(line, "ok ", 3))
		return fail("the child says: %s", line);
	line[strcspn(line, "\n")] = 0;
	say("%s", line + 3);
	close(sock);
}

static int clock_word(const char *word)
{
	if (!strcmp(word, "exec"))
		fork_child(execute_another, 0);
	else if (!strcmp(word, "child"))
		ask_child();
	else
		return 0;
	return 1;
}

const struct shape clock_shape = { "clock", "", clock_start, clock_tick, clock_verify, clock_word };
