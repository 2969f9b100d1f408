/*
 * pids - how fast each way of using up PIDs is: calls that take one, per millisecond, on one core and on two.
 *
 *   cc -O2 -static -o /tmp/pids bench/pids.c && unshare --pid --fork --mount-proc /tmp/pids [PIDs per method]
 *
 * In a PID namespace of its own, so that nobody else takes any. The counter is read from /proc/loadavg; a method
 * that does not advance it by what it was called says so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SHARED (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_SYSVSEM)

static int loadavg;

static int counter(void)
{
	char text[128] = "";

	if (pread(loadavg, text, sizeof text - 1, 0) <= 0) {
		perror("/proc/loadavg");
		exit(1);
	}
	return atoi(strrchr(text, ' ') + 1);
}

/* clone() whose child, if there is one, ends at once and touches no memory. */
static long clone_and_end(long flags)
{
	register long r10 asm("r10") = 0, r8 asm("r8") = 0;
	long result;

	asm volatile("syscall; test %%rax, %%rax; jnz 1f; mov %5, %%eax; xor %%edi, %%edi; syscall; 1:"
		     : "=a"(result), "+D"(flags)
		     : "0"((long)SYS_clone), "S"(0L), "d"(0L), "i"(SYS_exit), "r"(r10), "r"(r8)
		     : "rcx", "r11", "memory");
	return result;
}

static void by_fork(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	waitpid(child, NULL, 0);
}

static void by_vfork(void)
{
	waitpid(clone_and_end(CLONE_VM | CLONE_VFORK | SIGCHLD), NULL, 0);
}

static void by_thread(void)
{
	while (clone_and_end(SHARED | CLONE_THREAD) < 0)
		sched_yield();
}

static void by_refused_process(void)
{
	clone_and_end(SHARED | CLONE_PIDFD);
}

static void by_refused_thread(void)
{
	clone_and_end(SHARED | CLONE_PIDFD | CLONE_THREAD);
}

static void by_refused_thread_counted(void)
{
	by_refused_thread();
	counter();
}

static const struct {
	const char *name;
	void (*use_up_one)(void);
	int no_descriptors;
} methods[] = {
	{ "fork, wait", by_fork, 0 },
	{ "CLONE_VM|CLONE_VFORK, wait", by_vfork, 0 },
	{ "a thread that ends", by_thread, 0 },
	{ "CLONE_PIDFD at no address (EFAULT)", by_refused_process, 0 },
	{ "the same with CLONE_THREAD", by_refused_thread, 0 },
	{ "CLONE_PIDFD without descriptors (EMFILE)", by_refused_process, 1 },
	{ "the same with CLONE_THREAD", by_refused_thread, 1 },
	{ "the same, reading the counter each time", by_refused_thread_counted, 1 },
};

enum { METHODS = sizeof methods / sizeof *methods, ROUNDS = 12 };

static int each;

static void *use_up(void *method)
{
	for (int i = 0; i < each; i++)
		methods[(long)method].use_up_one();
	return NULL;
}

static double ms(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double children_ms(void)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
}

struct cost {
	double ms, cpu_ms;
};

static struct cost cost(long method, int threads, int total)
{
	struct rlimit before, none;
	struct cost start, took;
	pthread_t other;
	int first;

	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 0;
	each = total / threads;
	first = counter();
	start = (struct cost){ ms(CLOCK_MONOTONIC), ms(CLOCK_PROCESS_CPUTIME_ID) + children_ms() };
	if (threads == 2 && pthread_create(&other, NULL, use_up, (void *)method))
		exit(1);
	if (methods[method].no_descriptors)
		setrlimit(RLIMIT_NOFILE, &none);
	use_up((void *)method);
	if (threads == 2)
		pthread_join(other, NULL);
	took.ms = ms(CLOCK_MONOTONIC) - start.ms;
	took.cpu_ms = ms(CLOCK_PROCESS_CPUTIME_ID) + children_ms() - start.cpu_ms;
	setrlimit(RLIMIT_NOFILE, &before);
	if (counter() - first < each * threads)
		printf("%s used up only %d of %d\n", methods[method].name, counter() - first, each * threads);
	return took;
}

static double least(double a, double b)
{
	return a == 0 || b < a ? b : a;
}

int main(int argc, char **argv)
{
	int total = argc > 1 ? atoi(argv[1]) : 10000;
	struct cost best[METHODS][2] = { 0 };

	loadavg = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
	/* The best of many short rounds, by turns, as somebody else may use the processors. */
	for (int round = 0; round < ROUNDS; round++)
		for (long method = 0; method < METHODS; method++)
			for (int two = 0; two < 2; two++) {
				struct cost took = cost(method, two + 1, total), *b = &best[method][two];

				b->ms = least(b->ms, took.ms);
				b->cpu_ms = least(b->cpu_ms, took.cpu_ms);
			}
	printf("%-42s%22s%30s\n%-42s%11s%11s%15s%15s\n", "", "PIDs per ms", "us of processor per PID", "", "one thread",
	       "two", "one thread", "two");
	for (long method = 0; method < METHODS; method++) {
		const struct cost *b = best[method];

		printf("%-42s%11.1f%11.1f%15.1f%15.1f\n", methods[method].name, total / b[0].ms, total / b[1].ms,
		       b[0].cpu_ms * 1e3 / total, b[1].cpu_ms * 1e3 / total);
	}
	return 0;
}
