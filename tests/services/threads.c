/* threads.c - shapes with threads: threads, mixed. */
#include "service.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* What a thread has for itself and must have again. */
struct own {
	struct identity me;
	uint64_t mask;
	void *robust_list, *alternate_stack;
	char name[16];
};

static __thread long local; /* thread-local storage */

static struct own own(void)
{
	struct own o = { .me = identity() };
	size_t size;
	stack_t stack;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &o.mask, sizeof o.mask);
	syscall(SYS_get_robust_list, 0, &o.robust_list, &size);
	sigaltstack(NULL, &stack);
	o.alternate_stack = stack.ss_sp;
	prctl(PR_GET_NAME, o.name);
	return o;
}

static struct own set_up(long number)
{
	sigset_t mask;
	stack_t stack = { .ss_size = 65536, .ss_sp = malloc(65536) };
	char name[16];

	local = number * 1000003;
	sigemptyset(&mask);
	for (int bit = 0; bit < 10; bit++)
		if (number >> bit & 1)
			sigaddset(&mask, SIGRTMIN + bit);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	sigaltstack(&stack, NULL);
	snprintf(name, sizeof name, "thread-%ld", number);
	prctl(PR_SET_NAME, name);
	return own();
}

static void check(const struct own *before, long number)
{
	struct own now = own();

	check_identity(&before->me, before->name);
	if (local != number * 1000003)
		fail("thread %ld lost its thread-local value", number);
	if (now.mask != before->mask)
		fail("thread %ld had signal mask %#lx, has %#lx", number, before->mask, now.mask);
	if (now.robust_list != before->robust_list)
		fail("thread %ld lost its robust list", number);
	if (now.alternate_stack != before->alternate_stack)
		fail("thread %ld lost its signal stack", number);
	if (strcmp(now.name, before->name))
		fail("thread %ld is called %s", number, now.name);
	beats[number]++;
}

static void spawn(void *(*body)(void *), long number)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 131072);
	errno = pthread_create(&thread, &attr, body, (void *)number);
	if (errno)
		cannot("pthread_create");
}

/* threads: pairs of threads that wait for each other, beside the first one. */

static int count;
static struct pair {
	pthread_mutex_t lock;
	pthread_cond_t turned;
	long turn;
} pairs[MAX_BEATS / 2];

static void *play(void *arg)
{
	long number = (long)arg;
	int alone = number == count - 1 && number % 2 == 0;
	struct pair *pair = &pairs[number / 2];
	struct own before = set_up(number);

	for (;;) {
		pthread_mutex_lock(&pair->lock);
		while (!alone && pair->turn % 2 != number % 2)
			pthread_cond_wait(&pair->turned, &pair->lock);
		pair->turn++;
		pthread_cond_signal(&pair->turned);
		pthread_mutex_unlock(&pair->lock);
		check(&before, number);
		nap();
	}
	return NULL;
}

static void threads_start(int argc, char **argv)
{
	count = argc > 0 ? atoi(argv[0]) : 64;
	if (count < 1 || count > MAX_BEATS) {
		errno = EINVAL;
		cannot("the number of threads");
	}
	for (int i = 0; i < count; i++) {
		if (i % 2 == 0) {
			pthread_mutex_init(&pairs[i / 2].lock, NULL);
			pthread_cond_init(&pairs[i / 2].turned, NULL);
		}
		spawn(play, i);
	}
}

static void threads_verify(void)
{
	await_beats(count);
	say("threads=%d turns=%ld", count, pairs[0].turn);
}

const struct shape threads = { "threads", "N", threads_start, NULL, threads_verify, NULL };

/*
 * mixed: threads and children started by turns, so that threads have lower IDs than
 * later children, in the first process and in its children.
 */

enum { ROUNDS = 3, EACH = 3 }; /* a thread, a child, a thread of that child */

static void *run(void *arg)
{
	long number = (long)arg;
	struct own before = set_up(number);

	for (;; nap())
		check(&before, number);
	return NULL;
}

static void child(int number)
{
	spawn(run, number + 1);
	run((void *)(long)number);
}

static void mixed_start(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (int i = 0; i < ROUNDS; i++) {
		spawn(run, i * EACH);
		while (!beats[i * EACH])
			nap();
		fork_child(child, i * EACH + 1);
		while (!beats[i * EACH + 2])
			nap();
	}
}

static void mixed_verify(void)
{
	await_beats(ROUNDS * EACH);
	say("rounds=%d", ROUNDS);
}

const struct shape mixed = { "mixed", "", mixed_start, NULL, mixed_verify, NULL };
