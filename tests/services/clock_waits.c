/*
 * clock_waits.c - a shape that waits until a time of a clock in every way that a program can: clock-waits.
 *
 * Each way has a thread that waits 200 ms, again and again. None may be late for ever, and none may end before its time by
 * its own clock. Another thread reads the clocks by the C library, by syscall() and by an instruction of its own: they never
 * go back, and agree.
 */
#include "service.h"
#include <elf.h>
#include <linux/futex.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

#ifndef FUTEX_LOCK_PI2
#define FUTEX_LOCK_PI2 13
#endif
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { WAIT = 200, FAR = 3600000, PATIENCE = 500 }; /* ms; ms; times 10 ms */

typedef struct timespec timespec;

static int64_t in_ns(timespec t)
{
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static timespec in(clockid_t clock, long ms)
{
	timespec t;

	clock_gettime(clock, &t);
	t.tv_nsec += ms % 1000 * 1000000;
	t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

/* A system call by an instruction of our own, as programs without a C library make it. */
static long own_call(long nr, const void *a, long b, long c, const void *d, long e, long f)
{
#ifdef __x86_64__
	register const void *r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
#else
	long result = syscall(nr, a, b, c, d, e, f);

	return result < 0 ? -errno : result;
#endif
}

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_t for_ever;
static uint32_t locked; /* with priority inheritance */

/* Each waits until *t, and returns whether that is what ended it. */
static int by_cond(timespec *t, clockid_t clock)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_condattr_t attr;
	pthread_cond_t cond;
	int error;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, clock);
	pthread_cond_init(&cond, &attr);
	pthread_mutex_lock(&mutex);
	do
		error = pthread_cond_timedwait(&cond, &mutex, t);
	while (!error);
	pthread_mutex_unlock(&mutex);
	pthread_cond_destroy(&cond);
	return error == ETIMEDOUT;
}
static int cond_of_clock(timespec *t) { return by_cond(t, CLOCK_MONOTONIC); }
static int cond_by_date(timespec *t) { return by_cond(t, CLOCK_REALTIME); }

static int sem_by_date(timespec *t)
{
	sem_t sem;
	int result;

	sem_init(&sem, 0, 0);
	do
		result = sem_timedwait(&sem, t);
	while (result && errno == EINTR);
	return result && errno == ETIMEDOUT;
}

#ifdef __GLIBC__
static int cond_by_clock(timespec *t)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	int error;

	pthread_mutex_lock(&mutex);
	do
		error = pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, t);
	while (!error);
	pthread_mutex_unlock(&mutex);
	return error == ETIMEDOUT;
}

static int sem_by_clock(timespec *t)
{
	sem_t sem;
	int result;

	sem_init(&sem, 0, 0);
	do
		result = sem_clockwait(&sem, CLOCK_MONOTONIC, t);
	while (result && errno == EINTR);
	return result && errno == ETIMEDOUT;
}

static int mutex_by_clock(timespec *t) { return pthread_mutex_clocklock(&held, CLOCK_MONOTONIC, t) == ETIMEDOUT; }
static int rwlock_by_clock(timespec *t) { return pthread_rwlock_clockrdlock(&lock, CLOCK_MONOTONIC, t) == ETIMEDOUT; }
static int join_by_clock(timespec *t) { return pthread_clockjoin_np(for_ever, NULL, CLOCK_MONOTONIC, t) == ETIMEDOUT; }
#endif

static int by_futex(timespec *t, int flags)
{
	uint32_t word = 0;
	long result;

	do
		result = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE | flags, 0, t, NULL, ~0);
	while (result && errno == EINTR);
	return result && errno == ETIMEDOUT;
}
static int futex_by_clock(timespec *t) { return by_futex(t, 0); }
static int futex_by_date(timespec *t) { return by_futex(t, FUTEX_CLOCK_REALTIME); }

static int futex_by_own_call(timespec *t)
{
	uint32_t word = 0;
	long result;

	do
		result = own_call(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, t, 0, 0xffffffff);
	while (result == -EINTR);
	return result == -ETIMEDOUT;
}

static int futex_of_owner(timespec *t)
{
	long result;

	do
		result = syscall(SYS_futex, &locked, FUTEX_LOCK_PI2 | FUTEX_PRIVATE_FLAG, 0, t, NULL, 0);
	while (result && errno == EINTR);
	return result && errno == ETIMEDOUT;
}

/* Linux 5.16, where the container's seccomp profile has it. */
static int futexes(timespec *t)
{
	uint32_t word = 0;
	struct { uint64_t value, address; uint32_t flags, reserved; } one = { 0, (uintptr_t)&word, FUTEX_PRIVATE_FLAG | 2, 0 };
	long result;

	do
		result = syscall(SYS_futex_waitv, &one, 1, 0, t, CLOCK_MONOTONIC);
	while (result && errno == EINTR);
	if (result && (errno == ENOSYS || errno == EPERM))
		return futex_by_clock(t);
	return result && errno == ETIMEDOUT;
}

static int by_sleep(timespec *t, clockid_t clock)
{
	int error;

	do
		error = clock_nanosleep(clock, TIMER_ABSTIME, t, NULL);
	while (error == EINTR);
	return !error;
}
static int sleep_until(timespec *t) { return by_sleep(t, CLOCK_MONOTONIC); }
static int sleep_until_boottime(timespec *t) { return by_sleep(t, CLOCK_BOOTTIME); }
static int sleep_until_date(timespec *t) { return by_sleep(t, CLOCK_REALTIME); }

static int by_timerfd(timespec *t, clockid_t clock)
{
	struct itimerspec at = { .it_value = *t };
	int fd = timerfd_create(clock, TFD_CLOEXEC);
	uint64_t ticks;
	ssize_t n;

	if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, NULL))
		return 0;
	do
		n = read(fd, &ticks, sizeof ticks);
	while (n < 0 && errno == EINTR);
	close(fd);
	return n == sizeof ticks;
}
static int timerfd_by_clock(timespec *t) { return by_timerfd(t, CLOCK_MONOTONIC); }
static int timerfd_by_boottime(timespec *t) { return by_timerfd(t, CLOCK_BOOTTIME); }
static int timerfd_by_date(timespec *t) { return by_timerfd(t, CLOCK_REALTIME); }

/* Periodic: CRIU loses the signal of a timer that ends in the middle of a dump, after the signals and before the timers. */
static int by_timer(timespec *t, clockid_t clock)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2 };
	struct itimerspec at = { .it_value = *t, .it_interval.tv_nsec = WAIT * 1000000 };
	sigset_t set;
	timer_t timer;
	int result;

	event.sigev_notify_thread_id = gettid();
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	if (timer_create(clock, &event, &timer) || timer_settime(timer, TIMER_ABSTIME, &at, NULL))
		return 0;
	do
		result = sigwaitinfo(&set, NULL);
	while (result < 0 && errno == EINTR);
	timer_delete(timer);
	return result == SIGUSR2;
}
static int timer_by_clock(timespec *t) { return by_timer(t, CLOCK_MONOTONIC); }
static int timer_by_boottime(timespec *t) { return by_timer(t, CLOCK_BOOTTIME); }

/* glibc needs libgcc_s.so for it. With musl a cancel may come in the instant in which a restored thread takes up its wait. */
#if defined __GLIBC__ && !defined WITHOUT_CANCEL
#define CAN_CANCEL
static void *wait_for_hours(void *arg)
{
	timespec far = in(CLOCK_MONOTONIC, FAR);

	for (;;)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &far, NULL);
	return arg;
}

/* Ends another thread's wait at that time. */
static int by_cancel(timespec *t)
{
	pthread_t thread = small_thread(wait_for_hours, NULL);
	void *result;

	sleep_until(t);
	return !pthread_cancel(thread) && !pthread_join(thread, &result) && result == PTHREAD_CANCELED;
}
#endif

static struct way {
	const char *name;
	int (*wait)(timespec *t);
	clockid_t clock;
	atomic_long times;
} ways[] = {
	{ "a condition of CLOCK_MONOTONIC", cond_of_clock, CLOCK_MONOTONIC, 0 },
	{ "pthread_cond_timedwait", cond_by_date, CLOCK_REALTIME, 0 },
	{ "sem_timedwait", sem_by_date, CLOCK_REALTIME, 0 },
#ifdef __GLIBC__
	{ "pthread_cond_clockwait", cond_by_clock, CLOCK_MONOTONIC, 0 },
	{ "sem_clockwait", sem_by_clock, CLOCK_MONOTONIC, 0 },
	{ "pthread_mutex_clocklock", mutex_by_clock, CLOCK_MONOTONIC, 0 },
	{ "pthread_rwlock_clockrdlock", rwlock_by_clock, CLOCK_MONOTONIC, 0 },
	{ "pthread_clockjoin_np", join_by_clock, CLOCK_MONOTONIC, 0 },
#endif
	{ "futex by syscall()", futex_by_clock, CLOCK_MONOTONIC, 0 },
	{ "futex until a date", futex_by_date, CLOCK_REALTIME, 0 },
	{ "futex by an instruction", futex_by_own_call, CLOCK_MONOTONIC, 0 },
	{ "FUTEX_LOCK_PI2", futex_of_owner, CLOCK_MONOTONIC, 0 },
	{ "futex_waitv", futexes, CLOCK_MONOTONIC, 0 },
	{ "clock_nanosleep", sleep_until, CLOCK_MONOTONIC, 0 },
	{ "clock_nanosleep by CLOCK_BOOTTIME", sleep_until_boottime, CLOCK_BOOTTIME, 0 },
	{ "clock_nanosleep until a date", sleep_until_date, CLOCK_REALTIME, 0 },
	{ "timerfd", timerfd_by_clock, CLOCK_MONOTONIC, 0 },
	{ "timerfd by CLOCK_BOOTTIME", timerfd_by_boottime, CLOCK_BOOTTIME, 0 },
	{ "timerfd until a date", timerfd_by_date, CLOCK_REALTIME, 0 },
	{ "timer_settime", timer_by_clock, CLOCK_MONOTONIC, 0 },
	{ "timer_settime by CLOCK_BOOTTIME", timer_by_boottime, CLOCK_BOOTTIME, 0 },
#ifdef CAN_CANCEL
	{ "pthread_cancel", by_cancel, CLOCK_MONOTONIC, 0 },
#endif
};
enum { WAYS = sizeof ways / sizeof *ways };

static void *wait_again(void *arg)
{
	struct way *way = arg;

	for (;; way->times++) {
		timespec t = in(way->clock, WAIT), before = t;

		if (!way->wait(&t))
			fail("%s failed: %s", way->name, strerror(errno));
		if (memcmp(&t, &before, sizeof t))
			fail("%s has changed the program's time", way->name);
		if (in_ns(in(way->clock, 0)) < in_ns(t))
			fail("%s ended before its time", way->name);
	}
	return NULL;
}

static const struct {
	clockid_t clock;
	const char *name;
} clocks[] = { { CLOCK_MONOTONIC, "CLOCK_MONOTONIC" },
	       { CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW" },
	       { CLOCK_MONOTONIC_COARSE, "CLOCK_MONOTONIC_COARSE" },
	       { CLOCK_BOOTTIME, "CLOCK_BOOTTIME" } };
enum { CLOCKS = sizeof clocks / sizeof *clocks };

static atomic_long looked;

static void *read_clocks(void *arg)
{
	int64_t last[CLOCKS] = { 0 };

	for (;; looked++) {
		for (int i = 0; i < CLOCKS; i++) {
			timespec by_call, by_library, by_own;

			own_call(SYS_clock_gettime, (void *)(long)clocks[i].clock, (long)&by_own, 0, NULL, 0, 0);
			clock_gettime(clocks[i].clock, &by_library);
			syscall(SYS_clock_gettime, clocks[i].clock, &by_call);
			if (in_ns(by_own) < last[i])
				fail("%s went back by %.3f s", clocks[i].name, (last[i] - in_ns(by_own)) / 1e9);
			if (in_ns(by_library) < in_ns(by_own) || in_ns(by_call) < in_ns(by_library))
				fail("%s is %.3f s, then %.3f s by the library, then %.3f s by syscall()", clocks[i].name, in_ns(by_own) / 1e9,
				     in_ns(by_library) / 1e9, in_ns(by_call) / 1e9);
			last[i] = in_ns(by_call);
		}
		usleep(500);
	}
	return arg;
}

static void *pause_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void *own_lock(void *arg)
{
	syscall(SYS_futex, &locked, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
	return pause_for_ever(arg);
}

/*
 * Data that look like a `syscall` of any number, far from all functions. The dynamic program has its data beside its code, as
 * older linkers place them (build).
 */
static const unsigned char like_code[] = {
	[0 ... 0xffff] = 0x90,
	0x48, 0x89, 0xf8, /* mov %rdi, %rax */
	0x48, 0x89, 0xf7, /* mov %rsi, %rdi */
	0x49, 0x89, 0xca, /* mov %rcx, %r10 */
	0x0f, 0x05, /* syscall */
};
static unsigned char like_code_before[sizeof like_code];

static void clock_waits_start(int argc, char **argv)
{
	sigset_t usr2;

	memcpy(like_code_before, like_code, sizeof like_code);
	(void)argc, (void)argv;
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	sigprocmask(SIG_BLOCK, &usr2, NULL);
	pthread_mutex_lock(&held);
	pthread_rwlock_wrlock(&lock);
	for_ever = small_thread(pause_for_ever, NULL);
	small_thread(own_lock, NULL);
	while (!locked)
		nap();
	for (int i = 0; i < WAYS; i++)
		small_thread(wait_again, &ways[i]);
	small_thread(read_clocks, NULL);
}

/* Each wait must end twice from now on. */
static void clock_waits_verify(void)
{
	long before[WAYS], reads_before = looked;

	for (int i = 0; i < WAYS; i++)
		before[i] = ways[i].times;
	for (int i = 0, tries = PATIENCE; i < WAYS;) {
		if (ways[i].times >= before[i] + 2)
			i++;
		else if (tries-- > 0)
			nap();
		else
			return fail("%s does not end", ways[i].name);
	}
	if (looked == reads_before)
		fail("the clocks are not read");
	if (memcmp(like_code, like_code_before, sizeof like_code))
		fail("data have changed that look like code");
	say("ways=%d monotonic=%ld boottime=%ld", WAYS, (long)in(CLOCK_MONOTONIC, 0).tv_sec, (long)in(CLOCK_BOOTTIME, 0).tv_sec);
}

#ifdef __x86_64__
/* A futex of an hour by an instruction in memory without a file, which nobody knows. */
static void *wait_elsewhere(void *arg)
{
	static const unsigned char code[] = { 0x0f, 0x05, 0xc3 }; /* syscall; ret */
	static uint32_t word;
	timespec t = in(CLOCK_MONOTONIC, FAR);
	void *there = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	register const void *r10 __asm__("r10") = &t;
	register long r8 __asm__("r8") = 0, r9 __asm__("r9") = 0xffffffff;
	long result;

	memcpy(there, code, sizeof code);
	__asm__ volatile("sub $128, %%rsp; call *%%rbx; add $128, %%rsp"
			 : "=a"(result)
			 : "0"((long)SYS_futex), "D"(&word), "S"((long)FUTEX_WAIT_BITSET_PRIVATE), "d"(0L), "r"(r10), "r"(r8), "b"(there), "r"(r9)
			 : "rcx", "r11", "memory");
	fail("the wait elsewhere ended: %ld", result);
	return arg;
}
#else
static void *wait_elsewhere(void *arg)
{
	return pause_for_ever(arg);
}
#endif

/* The code of a library, mapped as dlopen() would, and then the same place of the library without its first page. */
static unsigned char *library, *content;
static size_t library_size;

static void map_library(off_t skip)
{
	int fd = open("/services/lib/libc.so.6", O_RDONLY | O_CLOEXEC);
	unsigned char head[4096];
	Elf64_Phdr *ph;

	if (fd < 0 || read(fd, head, sizeof head) != sizeof head)
		cannot("libc.so.6");
	for (ph = (void *)(head + sizeof(Elf64_Ehdr)); ph->p_type != PT_LOAD || !(ph->p_flags & PF_X); ph++)
		;
	if (!library)
		library_size = ph->p_filesz - 4096;
	library = mmap(library, library_size, PROT_READ | PROT_EXEC, MAP_PRIVATE | (library ? MAP_FIXED : 0), fd, ph->p_offset + skip);
	content = malloc(library_size);
	if (library == MAP_FAILED || pread(fd, content, library_size, ph->p_offset + skip) != (ssize_t)library_size)
		cannot("mapping libc.so.6");
	close(fd);
}

/* Reserves what is free between two addresses, as far as it is within 3 GiB of both. */
static void reserve(uintptr_t from, uintptr_t to)
{
	const uintptr_t far = 3ul << 30;
	uintptr_t parts[2][2] = { { from, to }, { to, to } };

	if (to - from > 2 * far) {
		parts[0][1] = from + far;
		parts[1][0] = to - far;
	}
	for (int i = 0; i < 2; i++)
		if (parts[i][1] > parts[i][0] &&
		    mmap((void *)parts[i][0], parts[i][1] - parts[i][0], PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
			 -1, 0) == MAP_FAILED)
			cannot("reserving memory");
}

static void reserve_all(void)
{
	static uintptr_t maps[512][2] = { { 0, 1 << 16 } };
	FILE *f = fopen("/proc/self/maps", "re");
	int n = 1;

	while (n < 512 && fscanf(f, "%lx-%lx%*[^\n]", &maps[n][0], &maps[n][1]) == 2 && maps[n][0] >> 47 == 0)
		n++;
	fclose(f);
	for (int i = 1; i < n; i++)
		reserve(maps[i - 1][1], maps[i][0]);
}

/* A child of 32 bits (thirty_two.S). */
static void be_thirty_two(int arg)
{
	(void)arg;
	execl("/services/thirty-two", "thirty-two", NULL);
	cannot("/services/thirty-two");
}

/* A child without a vDSO, which reads no clock by it. */
static void be_without_vdso(int arg)
{
	(void)arg;
	unmap_all("[vdso]");
	unmap_all("[vvar"); /* and [vvar_vclock] */
	for (;;)
		pause();
}

static int clock_waits_word(const char *text)
{
	if (!strcmp(text, "elsewhere"))
		small_thread(wait_elsewhere, NULL);
	else if (!strcmp(text, "reserve"))
		reserve_all();
	else if (!strcmp(text, "map"))
		map_library(0);
	else if (!strcmp(text, "thirty-two"))
		fork_child(be_thirty_two, 0);
	else if (!strcmp(text, "without-vdso"))
		fork_child(be_without_vdso, 0);
	else if (!strcmp(text, "remap"))
		map_library(4096);
	else if (!strcmp(text, "compare"))
		say("changed=%d", memcmp(library, content, library_size) != 0);
	else
		return 0;
	return 1;
}

const struct shape clock_waits = { "clock-waits", "", clock_waits_start, NULL, clock_waits_verify, clock_waits_word };
