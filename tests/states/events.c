/* events.c - eventfd, signalfd, timerfd, epoll, inotify and pidfd. */
#include "states.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

static int make_eventfd(struct object *o)
{
	uint64_t count = toss(o) ? draw(o, 1000) : 0xfffffffffffffffe;
	int fd = keep(o, eventfd(0, PICK(o, 0, EFD_NONBLOCK, EFD_SEMAPHORE, EFD_SEMAPHORE | EFD_NONBLOCK)));

	return fd < 0 || write(fd, &count, 8) < 0 ? -1 : 0;
}

static int make_signalfd(struct object *o)
{
	sigset_t set;

	sigemptyset(&set);
	for (int i = draw(o, 5); i >= 0; i--)
		sigaddset(&set, 1 + draw(o, 64));
	return keep(o, signalfd(-1, &set, PICK(o, 0, SFD_NONBLOCK))) < 0 ? -1 : 0;
}

static int make_timerfd(struct object *o)
{
	struct itimerspec spec = { 0 };
	int fd = keep(o, timerfd_create(PICK(o, CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME), PICK(o, 0, TFD_NONBLOCK)));

	spec.it_interval.tv_sec = toss(o) ? 10000 + draw(o, 10000) : 0;
	spec.it_value.tv_sec = draw(o, 3) ? 10000 + draw(o, 10000) : 0;
	if (!draw(o, 3)) /* expired by the time when it is told */
		spec.it_value.tv_nsec = 1;
	return fd < 0 ? -1 : timerfd_settime(fd, 0, &spec, NULL);
}

static void tell_timerfd(struct object *o)
{
	struct itimerspec spec = { 0 };

	tell_descriptors(o);
	timerfd_gettime(o->fd[0], &spec);
	tell(o, "timer: every %ld, armed %d", spec.it_interval.tv_sec, spec.it_value.tv_sec || spec.it_value.tv_nsec);
}

static int make_epoll(struct object *o)
{
	int fd = keep(o, epoll_create1(0));

	if (fd < 0)
		return -1;
	for (int i = draw(o, 4); i > 0; i--) {
		struct epoll_event event = { .events = draw(o, 32), .data.u64 = o->random };
		int target = toss(o) ? eventfd(draw(o, 2), 0) : epoll_create1(0);

		event.events |= PICK(o, 0, EPOLLET, EPOLLONESHOT, EPOLLRDHUP);
		if (keep(o, target) < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, o->fd[o->fds - 1], &event))
			return -1;
	}
	if (o->fds > 1 && !draw(o, 4)) { /* watched by a number that it has no longer */
		int other = dup(o->fd[1]);

		close(o->fd[1]);
		o->fd[1] = other;
	}
	return 0;
}

static int make_inotify(struct object *o)
{
	int fd = keep(o, inotify_init1(PICK(o, 0, IN_NONBLOCK)));

	if (fd < 0 || mkdir(new_path(o, ""), 0755))
		return -1;
	for (int i = draw(o, 3); i >= 0; i--) {
		static const char *const others[] = { "/etc/passwd", "/tmp", "/" };

		if (inotify_add_watch(fd, i ? others[draw(o, 3)] : o->path, 1 + draw(o, 0xfff)) < 0)
			return -1;
	}
	return toss(o) ? inotify_rm_watch(fd, 1) : 0;
}

/* Events that nobody has read are lost: docs/reference/preflight.md. */
static void tell_inotify(struct object *o)
{
	tell(o, "fd %d: flags %o cloexec %d", o->fd[0], fcntl(o->fd[0], F_GETFL), fcntl(o->fd[0], F_GETFD));
}

static int make_pidfd(struct object *o)
{
	pid_t pid = o->pid[0] = toss(o) ? getpid() : fork();

	if (!pid)
		for (;;)
			pause();
	if (keep(o, syscall(SYS_pidfd_open, pid, PICK(o, 0, O_NONBLOCK))) < 0)
		return -1;
	if (pid != getpid() && toss(o)) {
		kill(pid, SIGKILL);
		if (toss(o))
			waitpid(pid, NULL, 0);
	}
	return 0;
}

const struct kind event_kinds[] = {
	{ "eventfd", make_eventfd, tell_descriptors }, { "signalfd", make_signalfd, tell_descriptors },
	{ "timerfd", make_timerfd, tell_timerfd },     { "epoll", make_epoll, tell_descriptors },
	{ "inotify", make_inotify, tell_inotify }, { "pidfd", make_pidfd, tell_descriptors },
	{ NULL, NULL, NULL },
};
