/*
 * timers.c - timers: timers of each kind that end once, some milliseconds after they were armed, and are armed again soon after
 * their signal. One whose signal is lost never ends again; one that ends twice is counted.
 */
#include "service.h"
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

enum { LONGEST = 20000 /* us */ };
/* Those behind the first ones have real-time signals, each of which is queued. */
enum { FIRST = 4, TIMERS = 24, SIGNALS = 40 };
static const clockid_t clocks[] = { CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_MONOTONIC };

static struct timer {
	int signal;
	clockid_t clock; /* of a POSIX timer */
	int itimer;	 /* or which of setitimer(2) */
	bool by_thread;	 /* its signal is for one thread */
	timer_t id;
	atomic_bool armed;
} timers[TIMERS] = { { .signal = SIGALRM, .itimer = ITIMER_REAL },
			     { .signal = SIGPROF, .itimer = ITIMER_PROF },
			     { .signal = SIGUSR1, .clock = CLOCK_MONOTONIC, .itimer = -1 },
			     { .signal = SIGUSR2, .clock = CLOCK_PROCESS_CPUTIME_ID, .itimer = -1 } };

static atomic_long doubled;

static void arm(struct timer *t)
{
	static uint32_t seed = 1;
	long us;

	seed = seed * 1103515245 + 12345;
	us = 1 + (seed >> 8) % LONGEST;
	t->armed = true;
	if (t->itimer >= 0)
		setitimer(t->itimer, &(struct itimerval){ .it_value = { 0, us } }, NULL);
	else
		timer_settime(t->id, 0, &(struct itimerspec){ .it_value = { 0, us * 1000 } }, NULL);
}

static void ended(int signal)
{
	for (int i = 0; i < TIMERS; i++)
		if (timers[i].signal == signal) {
			if (!atomic_exchange(&timers[i].armed, false))
				doubled++;
			beats[i]++;
		}
}

/* The only thread that takes signals. */
static void *handle(void *all)
{
	for (int i = 0; i < TIMERS; i++) {
		struct timer *t = &timers[i];
		struct sigevent event = { .sigev_notify = t->by_thread ? SIGEV_THREAD_ID : SIGEV_SIGNAL, .sigev_signo = t->signal };

		event._sigev_un._tid = gettid();
		if (t->itimer < 0 && timer_create(t->clock, &event, &t->id))
			cannot("timer_create");
	}
	pthread_sigmask(SIG_UNBLOCK, all, NULL);
	/* Not in the handler: a signal that is queued twice comes first. */
	for (;; usleep(500))
		for (int i = 0; i < TIMERS; i++)
			if (!timers[i].armed)
				arm(&timers[i]);
	return NULL;
}

/* For those that count the processor's time. It gets some on a busy machine, too. */
static void *spin(void *unused)
{
	setpriority(PRIO_PROCESS, gettid(), 5);
	for (volatile long n = 0;; n++)
		;
	return unused;
}

/* So much memory that a dump takes longer than a timer: of those that are armed, each ends in the middle. */
static void take_time(size_t mebibytes)
{
	char *memory = malloc(mebibytes << 20);

	if (!memory)
		cannot("malloc");
	for (size_t i = 0; i < mebibytes << 20; i += 8)
		memcpy(memory + i, &i, 8);
}

static void timers_start(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = ended };
	static sigset_t all;

	if (argc > 0)
		take_time(atoi(argv[0]));
	for (int i = FIRST; i < TIMERS; i++) {
		timers[i].signal = SIGNALS + i - FIRST;
		timers[i].clock = clocks[i % 3];
		timers[i].itimer = -1;
		timers[i].by_thread = i % 2;
	}
	sigfillset(&action.sa_mask);
	for (int i = 0; i < TIMERS; i++) {
		sigaddset(&all, timers[i].signal);
		sigaction(timers[i].signal, &action, NULL);
	}
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	small_thread(spin, NULL);
	small_thread(handle, &all);
}

static void timers_verify(void)
{
	await_beats(TIMERS);
	if (doubled)
		fail("%ld timers ended twice", doubled);
}

const struct shape timers_shape = { "timers", "[MEBIBYTES]", timers_start, NULL, timers_verify, NULL };
