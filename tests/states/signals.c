/* signals.c - dispositions, masks, pending signals, alternate stacks, and timers that send signals. */
#include "states.h"
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

static void handler(int number)
{
	(void)number;
}

/* One that the process can do without. */
static int any_signal(struct object *o)
{
	return toss(o) ? 34 + (int)draw(o, 31) : PICK(o, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGIO, SIGWINCH, SIGURG, SIGPWR);
}

static int make_actions(struct object *o)
{
	for (int i = draw(o, 5); i >= 0; i--) {
		struct sigaction action = { .sa_handler = toss(o) ? handler : SIG_IGN };

		action.sa_flags = PICK(o, 0, SA_RESTART, SA_NODEFER, SA_ONSTACK, SA_SIGINFO, SA_NOCLDSTOP);
		sigaddset(&action.sa_mask, 1 + draw(o, 64));
		if (sigaction(any_signal(o), &action, NULL))
			return -1;
	}
	return 0;
}

static void tell_actions(struct object *o)
{
	for (int number = 1; number <= 64; number++) {
		struct sigaction action = { 0 };

		if (sigaction(number, NULL, &action) || action.sa_handler == SIG_DFL)
			continue;
		tell(o, "signal %d: %p flags %x mask %016lx", number, (void *)action.sa_handler, action.sa_flags,
		     *(unsigned long *)&action.sa_mask);
	}
}

/* To the process and to its thread, real-time signals more than once. */
static int make_pending(struct object *o)
{
	sigset_t set;

	sigemptyset(&set);
	for (int i = draw(o, 5); i >= 0; i--) {
		int number = any_signal(o);

		sigaddset(&set, number);
		sigprocmask(SIG_BLOCK, &set, NULL);
		if (draw(o, 3)) {
			union sigval value = { .sival_int = draw(o, 1000) };

			if (toss(o) ? sigqueue(getpid(), number, value) : syscall(SYS_tgkill, getpid(), gettid(), number))
				return -1;
		}
	}
	return 0;
}

static void tell_pending(struct object *o)
{
	sigset_t pending, blocked;

	sigpending(&pending);
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	tell(o, "pending %016lx blocked %016lx", *(unsigned long *)&pending, *(unsigned long *)&blocked);
}

static int make_stack(struct object *o)
{
	stack_t stack = { .ss_size = 16384 + 4096 * draw(o, 10) };

	stack.ss_sp = malloc(stack.ss_size);
	return sigaltstack(&stack, NULL);
}

static void tell_stack(struct object *o)
{
	stack_t stack = { 0 };

	sigaltstack(NULL, &stack);
	tell(o, "stack at %p, %zu bytes, flags %x", stack.ss_sp, stack.ss_size, stack.ss_flags);
}

static int make_interval(struct object *o)
{
	struct itimerval timer = { { toss(o) ? draw(o, 100000) : 0, draw(o, 1000000) }, { 10000 + draw(o, 100000), 0 } };

	o->note[0] = PICK(o, ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF);
	return setitimer(o->note[0], &timer, NULL);
}

static void tell_interval(struct object *o)
{
	struct itimerval timer = { 0 };

	getitimer(o->note[0], &timer);
	tell(o, "timer %ld: every %ld.%06ld, armed %d", o->note[0], timer.it_interval.tv_sec, timer.it_interval.tv_usec,
	     timer.it_value.tv_sec > 9000);
}

static int make_timer(struct object *o)
{
	struct sigevent event = { .sigev_notify = PICK(o, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD_ID) };
	struct itimerspec spec = { { toss(o) ? draw(o, 10000) : 0, 0 }, { toss(o) ? 10000 + draw(o, 100000) : 0, 0 } };
	int id;

	event.sigev_signo = any_signal(o);
	event.sigev_value.sival_int = draw(o, 1000);
	event._sigev_un._tid = gettid();
	if (syscall(SYS_timer_create, PICK(o, CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID),
		    &event, &id))
		return -1;
	o->note[0] = id;
	if (!draw(o, 5)) /* its number stays free */
		return make_timer(o) ?: (int)syscall(SYS_timer_delete, id);
	return syscall(SYS_timer_settime, id, 0, &spec, NULL);
}

static void tell_timer(struct object *o)
{
	struct itimerspec spec = { 0 };

	if (syscall(SYS_timer_gettime, (int)o->note[0], &spec))
		return tell(o, "timer %ld: %s", o->note[0], strerror(errno));
	tell(o, "timer %ld: every %ld, armed %d, overrun %ld", o->note[0], spec.it_interval.tv_sec,
	     spec.it_value.tv_sec > 9000, syscall(SYS_timer_getoverrun, (int)o->note[0]));
}

const struct kind signal_kinds[] = {
	{ "actions", make_actions, tell_actions }, { "pending", make_pending, tell_pending },
	{ "alternate-stack", make_stack, tell_stack }, { "interval", make_interval, tell_interval },
	{ "timer", make_timer, tell_timer },	   { NULL, NULL, NULL },
};
