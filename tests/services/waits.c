/*
 * waits.c - a shape that waits in every way that a program can: waits.
 *
 * Each wait is in a thread of its own. Some have no end, and some a limit that is far away: none of them may end. At the
 * word "begin" others begin, with a limit that is near. The time in which the service did not run does not count for them.
 */
#include "service.h"
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

enum { FAR = 3600, NEAR = 8, GRACE = 2 }; /* s */

static int quiet, timed, epoll_fd, timer, ends[2];
static sem_t sem;
static int word;
static sigset_t usr1, usr2, inside; /* `inside` is the mask during those waits that have one */

static struct timespec in(int seconds)
{
	return (struct timespec){ .tv_sec = seconds };
}

static struct timespec at(clockid_t clock, int seconds)
{
	struct timespec t;

	clock_gettime(clock, &t);
	t.tv_sec += seconds;
	return t;
}

/* The time that the service has run, in ms: a gap between two ticks counts 100 ms at most, and so does a jump back. */
static atomic_long ran;

static void waits_tick(void)
{
	static int64_t last;
	struct timespec t = at(CLOCK_MONOTONIC, 0);
	int64_t now = t.tv_sec * 1000LL + t.tv_nsec / 1000000, gap = last ? now - last : 0;

	last = now;
	ran += gap < 0 || gap > 100 ? 100 : gap;
}

static long wait_poll(int s)
{
	return poll(&(struct pollfd){ quiet, POLLIN, 0 }, 1, s < 0 ? -1 : s * 1000);
}
static long wait_ppoll(int s)
{
	struct timespec t = in(s);

	return ppoll(&(struct pollfd){ quiet, POLLIN, 0 }, 1, s < 0 ? NULL : &t, &inside);
}
static long wait_select(int s)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(quiet, &set);
	return select(quiet + 1, &set, NULL, NULL, s < 0 ? NULL : &(struct timeval){ .tv_sec = s });
}
static long wait_pselect(int s)
{
	struct timespec t = in(s);
	fd_set set;

	FD_ZERO(&set);
	FD_SET(quiet, &set);
	return pselect(quiet + 1, &set, NULL, NULL, s < 0 ? NULL : &t, &inside);
}
static long wait_epoll(int s)
{
	return epoll_wait(epoll_fd, &(struct epoll_event){ 0 }, 1, s < 0 ? -1 : s * 1000);
}
static long wait_epoll_pwait(int s)
{
	return epoll_pwait(epoll_fd, &(struct epoll_event){ 0 }, 1, s < 0 ? -1 : s * 1000, &inside);
}
static long wait_epoll_pwait2(int s)
{
	struct timespec t = in(s);

	return syscall(SYS_epoll_pwait2, epoll_fd, &(struct epoll_event){ 0 }, 1, s < 0 ? NULL : &t, NULL, 0);
}
static long wait_nanosleep(int s)
{
	struct timespec t = in(s);

	return syscall(SYS_nanosleep, &t, NULL);
}
static long wait_sleep(int s)
{
	struct timespec t = in(s);

	return nanosleep(&t, &t);
}
static long wait_clock_nanosleep(int s)
{
	struct timespec t = in(s);

	return clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}
static long wait_until(int s)
{
	struct timespec t = at(CLOCK_REALTIME, s);

	return clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
}
static long wait_sem(int s)
{
	struct timespec t = at(CLOCK_REALTIME, s);

	return s < 0 ? sem_wait(&sem) : sem_timedwait(&sem, &t);
}
static long wait_futex(int s)
{
	struct timespec t = in(s);

	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, s < 0 ? NULL : &t, NULL, 0);
}
static long wait_read_pipe(int s) { (void)s; return read(ends[0], &(char){ 0 }, 1); }
static long wait_read_timer(int s) { (void)s; return read(timer, &(uint64_t){ 0 }, 8); }
static long wait_recv(int s) { return recv(s < 0 ? quiet : timed, &(char){ 0 }, 1, 0); }
static long wait_recvmsg(int s)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	return recvmsg(s < 0 ? quiet : timed, &msg, 0);
}
static long wait_read_socket(int s) { return read(s < 0 ? quiet : timed, &(char){ 0 }, 1); }
static long wait_signal(int s)
{
	struct timespec t = in(s);

	return s < 0 ? sigwaitinfo(&usr1, NULL) : sigtimedwait(&usr1, NULL, &t);
}
static long wait_pause(int s) { (void)s; return pause(); }
static long wait_suspend(int s) { (void)s; return sigsuspend(&inside); }
static long wait_child(int s) { (void)s; return waitpid(-1, NULL, 0); }

static struct wait {
	const char *name;
	long (*wait)(int seconds);
	int seconds;
	long began;
	atomic_bool ended;
} all[] = {
	{ .name = "poll", wait_poll, -1 },
	{ .name = "poll with a limit", wait_poll, FAR },
	{ .name = "ppoll", wait_ppoll, -1 },
	{ .name = "ppoll with a limit", wait_ppoll, FAR },
	{ .name = "select", wait_select, -1 },
	{ .name = "select with a limit", wait_select, FAR },
	{ .name = "pselect", wait_pselect, -1 },
	{ .name = "pselect with a limit", wait_pselect, FAR },
	{ .name = "epoll_wait", wait_epoll, -1 },
	{ .name = "epoll_wait with a limit", wait_epoll, FAR },
	{ .name = "epoll_pwait", wait_epoll_pwait, -1 },
	{ .name = "epoll_pwait with a limit", wait_epoll_pwait, FAR },
	{ .name = "epoll_pwait2 with a limit", wait_epoll_pwait2, FAR },
	{ .name = "nanosleep", wait_nanosleep, FAR },
	{ .name = "nanosleep that says what is left", wait_sleep, FAR },
	{ .name = "clock_nanosleep", wait_clock_nanosleep, FAR },
	{ .name = "clock_nanosleep until then", wait_until, FAR },
	{ .name = "sem_wait", wait_sem, -1 },
	{ .name = "sem_timedwait", wait_sem, FAR },
	{ .name = "futex", wait_futex, -1 },
	{ .name = "futex with a limit", wait_futex, FAR },
	{ .name = "read of a pipe", wait_read_pipe, -1 },
	{ .name = "read of a timer", wait_read_timer, -1 },
	{ .name = "recv", wait_recv, -1 },
	{ .name = "recv with a limit", wait_recv, FAR },
	{ .name = "recvmsg with a limit", wait_recvmsg, FAR },
	{ .name = "read of a socket with a limit", wait_read_socket, FAR },
	{ .name = "sigwaitinfo", wait_signal, -1 },
	{ .name = "sigtimedwait", wait_signal, FAR },
	{ .name = "pause", wait_pause, -1 },
	{ .name = "sigsuspend", wait_suspend, -1 },
	{ .name = "waitpid", wait_child, -1 },
}, near[] = {
	{ .name = "poll", wait_poll, NEAR },
	{ .name = "ppoll", wait_ppoll, NEAR },
	{ .name = "select", wait_select, NEAR },
	{ .name = "pselect", wait_pselect, NEAR },
	{ .name = "nanosleep", wait_nanosleep, NEAR },
	{ .name = "nanosleep that says what is left", wait_sleep, NEAR },
	{ .name = "clock_nanosleep", wait_clock_nanosleep, NEAR },
	{ .name = "futex", wait_futex, NEAR },
	{ .name = "epoll_wait", wait_epoll, NEAR },
	{ .name = "epoll_pwait", wait_epoll_pwait, NEAR },
};
enum { ALL = sizeof all / sizeof *all, NEARS = sizeof near / sizeof *near };

static void *wait_in_thread(void *arg)
{
	struct wait *w = arg;
	long result = w->wait(w->seconds), took = ran - w->began;
	int error = errno;

	w->ended = true;
	if (w->seconds != NEAR)
		fail("%s ended: %ld, %s", w->name, result, strerror(error));
	else if (result && !(result == -1 && error == ETIMEDOUT))
		fail("%s of %d s ended: %ld, %s", w->name, NEAR, result, strerror(error));
	else if (took < NEAR * 1000 - 200 || took > (NEAR + GRACE) * 1000)
		fail("%s of %d s took %ld ms", w->name, NEAR, took);
	for (;;)
		pause();
	return NULL;
}

/* SIGUSR2 is for the last thread, and ends its wait. */
static atomic_int handled, interrupted;

static void handle(int signal)
{
	(void)signal;
	handled = 1;
}

static void *wait_for_handler(void *arg)
{
	long result;

	sigaction(SIGUSR2, &(struct sigaction){ .sa_handler = handle }, NULL);
	pthread_sigmask(SIG_UNBLOCK, &usr2, NULL);
	result = wait_poll(FAR);
	if (result != -1 || errno != EINTR || !handled)
		fail("the wait for a signal ended: %ld, %s", result, strerror(errno));
	interrupted = 1;
	for (;;)
		pause();
	return arg;
}

static void begin(struct wait *w)
{
	w->began = ran;
	small_thread(wait_in_thread, w);
}

static char *shape_name;

static void pause_for_ever(int unused)
{
	(void)unused;
	strcpy(shape_name, "child"); /* so that nobody takes it for the service */
	for (;;)
		pause();
}

static void waits_start(int argc, char **argv)
{
	struct timeval limit = { .tv_sec = FAR };
	int pair[2], other[2];

	(void)argc;
	shape_name = argv[-1];
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	inside = usr2;
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	sigprocmask(SIG_BLOCK, &usr2, NULL);
	sem_init(&sem, 0, 0);
	if (pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || socketpair(AF_UNIX, SOCK_STREAM, 0, other))
		cannot("pipe or socketpair");
	quiet = pair[0];
	timed = other[0];
	setsockopt(timed, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	epoll_fd = epoll_create1(0);
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, quiet, &(struct epoll_event){ .events = EPOLLIN });
	timer = timerfd_create(CLOCK_REALTIME, 0);
	timerfd_settime(timer, 0, &(struct itimerspec){ .it_value.tv_sec = FAR }, NULL);
	fork_child(pause_for_ever, 0);
	for (int i = 0; i < ALL; i++)
		begin(&all[i]);
	small_thread(wait_for_handler, NULL);
}

static void waits_verify(void)
{
	int n = 0;

	for (int i = 0; i < NEARS; i++)
		n += near[i].ended;
	say("ended=%d interrupted=%d", n, interrupted);
}

static int waits_word(const char *text)
{
	if (strcmp(text, "begin"))
		return 0;
	for (int i = 0; i < NEARS; i++)
		begin(&near[i]);
	return 1;
}

const struct shape waits = { "waits", "", waits_start, waits_tick, waits_verify, waits_word };
