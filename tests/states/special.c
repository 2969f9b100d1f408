/* special.c - terminals, netlink, packets in pipes, asynchronous I/O, robust futexes, huge pages. */
#include "states.h"
#include <linux/aio_abi.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>

static int make_terminal(struct object *o)
{
	struct winsize size = { draw(o, 100), draw(o, 200), 0, 0 };
	int master = keep(o, posix_openpt(O_RDWR | O_NOCTTY | (toss(o) ? O_NONBLOCK : 0))), slave;
	struct termios t;

	if (master < 0 || unlockpt(master) || ioctl(master, TIOCSWINSZ, &size))
		return -1;
	if (draw(o, 4) && (slave = keep(o, open(ptsname(master), O_RDWR | O_NOCTTY))) < 0)
		return -1;
	if (tcgetattr(master, &t))
		return -1;
	for (int i = draw(o, 5); i > 0; i--)
		switch (draw(o, 5)) {
		case 0: t.c_lflag ^= PICK(o, ECHO, ICANON, ISIG, ECHONL, NOFLSH, TOSTOP); break;
		case 1: t.c_iflag ^= PICK(o, ICRNL, IXON, INLCR, IGNBRK, IUTF8); break;
		case 2: t.c_oflag ^= PICK(o, OPOST, ONLCR, OCRNL); break;
		case 3: t.c_cc[draw(o, 16)] = draw(o, 128); break;
		case 4: cfsetspeed(&t, PICK(o, B9600, B38400, B115200)); break;
		}
	if (tcsetattr(master, TCSANOW, &t))
		return -1;
	if (o->fds == 2 && toss(o)) /* that the other end has not read yet */
		return write(o->fd[1], o->name, strlen(o->name)) < 0 ? -1 : 0;
	return 0;
}

static void tell_terminal(struct object *o)
{
	for (int i = 0; i < o->fds; i++) {
		struct termios t = { 0 };
		struct winsize size = { 0 };
		int packet = -1, unread = -1;

		if (tcgetattr(o->fd[i], &t))
			tell(o, "tcgetattr: %s", strerror(errno));
		ioctl(o->fd[i], TIOCGWINSZ, &size);
		ioctl(o->fd[i], TIOCGPKT, &packet);
		ioctl(o->fd[i], FIONREAD, &unread);
		tell(o, "terminal %d: %x %x %x %x speed %x, %d rows %d columns, packet %d, unread %d", i, t.c_iflag, t.c_oflag,
		     t.c_cflag, t.c_lflag, cfgetospeed(&t), size.ws_row, size.ws_col, packet, unread);
		tell_bytes(o, "characters", t.c_cc, sizeof t.c_cc);
	}
	tell_descriptors(o);
}

static int make_netlink(struct object *o)
{
	int protocol = PICK(o, NETLINK_ROUTE, NETLINK_ROUTE, NETLINK_GENERIC, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT);
	/* Groups to which nothing is sent here: a dump fails by name if there is anything to read. */
	struct sockaddr_nl name = { .nl_family = AF_NETLINK,
				    .nl_groups = protocol == NETLINK_ROUTE ? PICK(o, 0, RTMGRP_TC, RTMGRP_IPV4_MROUTE) : 0 };
	int fd = keep(o, socket(AF_NETLINK, PICK(o, SOCK_RAW, SOCK_DGRAM), protocol));

	if (fd < 0)
		return -1;
	name.nl_pid = toss(o) ? 0 : 100000 + draw(o, 100000);
	for (int i = draw(o, 3); i > 0; i--)
		setsockopt(fd, SOL_NETLINK, PICK(o, NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS,
						 NETLINK_CAP_ACK, NETLINK_EXT_ACK), &(int){ 1 }, sizeof(int));
	return draw(o, 4) ? bind(fd, (void *)&name, sizeof name) : 0;
}

static void tell_netlink(struct object *o)
{
	struct sockaddr_nl name = { 0 };
	int protocol = -1;
	unsigned groups = 0;

	getsockname(o->fd[0], (void *)&name, &(socklen_t){ sizeof name });
	getsockopt(o->fd[0], SOL_SOCKET, SO_PROTOCOL, &protocol, &(socklen_t){ sizeof protocol });
	getsockopt(o->fd[0], SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, &groups, &(socklen_t){ sizeof groups });
	/* Without a name the kernel gives it one, which is the PID or negative. */
	tell(o, "netlink %d: groups %x, port %d", protocol, groups, (int)name.nl_pid < 100000 ? 0 : (int)name.nl_pid);
	for (int i = NETLINK_PKTINFO; i <= NETLINK_EXT_ACK; i++) {
		int value = -1;

		if (i != NETLINK_LIST_MEMBERSHIPS && !getsockopt(o->fd[0], SOL_NETLINK, i, &value, &(socklen_t){ sizeof value }))
			tell(o, "option %d is %d", i, value);
	}
	tell_descriptors(o);
}

/* Each write is a packet. Those that nobody has read are refused: docs/reference/preflight.md. */
static int make_packets(struct object *o)
{
	int ends[2];

	if (pipe2(ends, O_DIRECT | PICK(o, 0, O_CLOEXEC, O_NONBLOCK)) || keep(o, ends[0]) < 0 || keep(o, ends[1]) < 0)
		return -1;
	return 0;
}

static int make_aio(struct object *o)
{
	aio_context_t ring = 0;

	if (syscall(SYS_io_setup, 1 + draw(o, 300), &ring))
		return -1;
	o->note[0] = ring;
	return 0;
}

/* A context that is not there is EINVAL. */
static void tell_aio(struct object *o)
{
	struct io_event event;
	struct timespec now = { 0 };
	long got = syscall(SYS_io_getevents, o->note[0], 0, 1, &event, &now);

	tell(o, "ring at %lx: %ld, %s", o->note[0], got, got < 0 ? strerror(errno) : "");
}

/* A mutex that a thread holds for ever, and whose end the kernel would tell by its list of robust futexes. */
static void *hold_mutex(void *mutex)
{
	pthread_mutex_lock(mutex);
	for (;;)
		pause();
	return NULL;
}

static int make_robust(struct object *o)
{
	pthread_mutex_t *mutex = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | PICK(o, MAP_SHARED, MAP_PRIVATE), -1, 0);
	pthread_mutexattr_t attributes;
	sigset_t all, old;
	pthread_t thread;

	if (mutex == MAP_FAILED)
		return -1;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setprotocol(&attributes, PICK(o, PTHREAD_PRIO_NONE, PTHREAD_PRIO_INHERIT));
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(mutex, &attributes);
	o->memory = (void *)mutex;
	/* What another object leaves pending is for the first thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	errno = pthread_create(&thread, NULL, hold_mutex, mutex);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	nap();
	return errno ? -1 : 0;
}

static void tell_robust(struct object *o)
{
	void *head = NULL;
	size_t size = 0;

	syscall(SYS_get_robust_list, 0, &head, &size);
	tell(o, "list at %p, %zu bytes, mutex: %s", head, size, strerror(pthread_mutex_trylock((void *)o->memory)));
}

static int make_huge(struct object *o)
{
	void *memory = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_HUGETLB, -1, 0);

	if (memory == MAP_FAILED)
		return -1;
	fill(o, memory, 100);
	return 0;
}

const struct kind special_kinds[] = {
	{ "terminal", make_terminal, tell_terminal }, { "netlink", make_netlink, tell_netlink },
	{ "packets", make_packets, tell_descriptors }, { "aio", make_aio, tell_aio },
	{ "robust", make_robust, tell_robust }, { "huge", make_huge, tell_descriptors },
	{ NULL, NULL, NULL },
};
