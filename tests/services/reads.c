/*
 * reads.c - reads [ignoring|blocking]: threads that do nothing but read the time, so that a checkpoint finds most of them
 * inside the vDSO. Counts the reads that do not follow the ones before, and the signals that `service signal` sends.
 * SIGTRAP has a handler, is ignored, or has a handler and is blocked.
 */
#include "service.h"
#include <pthread.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

static const int64_t second = 1000000000, far = 1000 * second; /* longer than any checkpoint, shorter than between hosts */

static int64_t of_clock(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * second + time.tv_nsec;
}

static int64_t monotonic(void)
{
	return of_clock(CLOCK_MONOTONIC);
}

static int64_t boottime(void)
{
	return of_clock(CLOCK_BOOTTIME);
}

static int64_t realtime(void)
{
	return of_clock(CLOCK_REALTIME);
}

static int64_t time_of_day(void)
{
	struct timeval time;

	gettimeofday(&time, NULL);
	return time.tv_sec * second + time.tv_usec * 1000;
}

static struct reader {
	const char *name;
	int64_t (*read)(void);
	atomic_long jumps;
	atomic_llong largest; /* of the jumps, in seconds */
} readers[] = { { "monotonic", monotonic, 0, 0 }, { "boottime", boottime, 0, 0 }, { "realtime", realtime, 0, 0 },
		{ "time_of_day", time_of_day, 0, 0 } };
enum { READERS = sizeof readers / sizeof *readers };

static void *read_on(void *which)
{
	struct reader *reader = which;
	int64_t last = reader->read();

	/* Others have something to do as well. */
	setpriority(PRIO_PROCESS, gettid(), 19);
	for (;; beats[reader - readers]++) {
		int64_t now = reader->read(), step = now - last;

		if (step < 0 || step > far) {
			reader->jumps++;
			if (llabs(step / second) > llabs(reader->largest))
				reader->largest = step / second;
		}
		last = now;
	}
	return NULL;
}

static atomic_long caught, sum;
static void (*on_trap)(int);
static bool blocks_trap;

static void catch(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	caught++;
	sum += info->si_value.sival_int;
}

static void trapped(int number)
{
	fail("signal %d", number);
}

static void reads_start(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = catch, .sa_flags = SA_SIGINFO | SA_RESTART };
	pthread_t thread;

	on_trap = argc && !strcmp(argv[0], "ignoring") ? SIG_IGN : trapped;
	signal(SIGTRAP, on_trap);
	blocks_trap = argc && !strcmp(argv[0], "blocking");
	if (blocks_trap) {
		sigset_t trap;

		sigemptyset(&trap);
		sigaddset(&trap, SIGTRAP);
		pthread_sigmask(SIG_BLOCK, &trap, NULL);
	}
	sigaction(SIGRTMIN, &action, NULL);
	for (int i = 0; i < READERS; i++)
		if ((errno = pthread_create(&thread, NULL, read_on, &readers[i])))
			cannot("pthread_create");
}

static void reads_verify(void)
{
	struct sigaction action;
	sigset_t blocked;

	await_beats(READERS);
	if (sigaction(SIGTRAP, NULL, &action) || action.sa_handler != on_trap)
		fail("SIGTRAP is handled otherwise");
	if (pthread_sigmask(SIG_BLOCK, NULL, &blocked) || sigismember(&blocked, SIGTRAP) != blocks_trap)
		fail("SIGTRAP is%s blocked", blocks_trap ? " not" : "");
	for (int i = 0; i < READERS; i++)
		say("%s_jumps=%ld %s_largest=%lld", readers[i].name, readers[i].jumps, readers[i].name, readers[i].largest);
	say("caught=%ld sum=%ld", caught, sum);
}

const struct shape reads = { "reads", "[ignoring|blocking]", reads_start, NULL, reads_verify, NULL };
