/* unix.c - unix sockets: pairs with data, descriptors in flight, listeners, names. */
#include "states.h"
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static int type_of(struct object *o)
{
	return PICK(o, SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET);
}

static void set_options(struct object *o, int fd)
{
	static const int options[] = { SO_SNDBUF, SO_RCVBUF, SO_PASSCRED, SO_PRIORITY, SO_RCVLOWAT, SO_PASSSEC };
	struct timeval time = { .tv_sec = draw(o, 100) };

	for (int i = draw(o, 4); i > 0; i--)
		setsockopt(fd, SOL_SOCKET, options[draw(o, 6)], &(int){ 1 + draw(o, 30000) }, sizeof(int));
	if (toss(o))
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
	if (toss(o))
		fcntl(fd, F_SETFL, O_NONBLOCK);
}

static int send_some(struct object *o, int fd)
{
	static char data[40000];

	for (int i = draw(o, 4); i > 0; i--) {
		size_t size = 1 + draw(o, draw(o, 8) ? 3000 : sizeof data - 1);

		fill(o, data, size);
		if (send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			return -1;
	}
	return 0;
}

/* Descriptors in flight, that nobody has open otherwise, with some bytes. */
static int send_descriptors(struct object *o, int by)
{
	enum { MOST = 253 }; /* that the kernel takes */
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(MOST * sizeof(int))];
	} control = { 0 };
	char data[3000];
	int n = draw(o, 20) ? 1 + draw(o, 3) : MOST, fds[MOST], sent;
	struct msghdr message = { .msg_iov = &(struct iovec){ data, 1 + draw(o, sizeof data - 1) }, .msg_iovlen = 1,
				  .msg_control = &control, .msg_controllen = CMSG_SPACE(n * sizeof(int)) };

	fill(o, data, sizeof data);
	for (int i = 0; i < n; i++)
		fds[i] = open(toss(o) ? "/etc/passwd" : "/dev/null", O_RDONLY | O_CLOEXEC);
	control.header = (struct cmsghdr){ CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
	sent = sendmsg(by, &message, MSG_DONTWAIT);
	while (n > 0)
		close(fds[--n]);
	return sent < 0 ? -1 : 0;
}

static int make_pair(struct object *o)
{
	int pair[2];

	if (socketpair(AF_UNIX, o->note[0] = type_of(o), 0, pair) || keep(o, pair[0]) < 0 || keep(o, pair[1]) < 0)
		return -1;
	for (int i = 0; i < 2; i++) /* what is sent before the receiver asks for its sender has none */
		set_options(o, o->fd[i]);
	for (int i = 0; i < 2; i++)
		send_some(o, o->fd[i]);
	for (int i = draw(o, 4) ? 0 : 1 + draw(o, 3); i > 0; i--)
		if (send_descriptors(o, o->fd[draw(o, 2)]))
			break;
	if (toss(o))
		send_some(o, o->fd[0]);
	if (!draw(o, 3))
		shutdown(o->fd[0], draw(o, 3));
	if (!draw(o, 4)) {
		close(o->fd[1]);
		o->fd[1] = -1;
	}
	return 0;
}

/* A name in a folder, or an abstract one. */
static int bind_to(struct object *o, int fd)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	if (toss(o)) {
		strcpy(name.sun_path, new_path(o, "-socket"));
		return bind(fd, (void *)&name, sizeof name);
	}
	strcpy(name.sun_path + 1, o->name);
	return bind(fd, (void *)&name, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(o->name));
}

static int connect_to(struct object *o, int to, int type)
{
	struct sockaddr_un name;
	socklen_t size = sizeof name;
	int fd = keep(o, socket(AF_UNIX, type, 0));

	return getsockname(to, (void *)&name, &size) || connect(fd, (void *)&name, size) ? -1 : fd;
}

static int make_named(struct object *o)
{
	int type = o->note[0] = type_of(o), fd = keep(o, socket(AF_UNIX, type, 0)), client;

	if (fd < 0)
		return -1;
	set_options(o, fd);
	if (bind_to(o, fd) || (type != SOCK_DGRAM && listen(fd, 1 + draw(o, 100))))
		return -1;
	if (toss(o)) {
		client = connect_to(o, fd, type);
		if (client < 0)
			return -1;
		send_some(o, client);
		/* One that waits to be accepted may find itself closed: docs/reference/preflight.md. */
		if (type != SOCK_DGRAM && keep(o, accept(fd, NULL, NULL)) >= 0)
			send_some(o, o->fd[2]);
	}
	return *o->path && !draw(o, 3) ? unlink(o->path) : 0;
}

static void tell_name(struct object *o, int fd, const char *what, int (*get)(int, struct sockaddr *, socklen_t *))
{
	struct sockaddr_un name = { 0 };
	socklen_t size = sizeof name;

	if (get(fd, (void *)&name, &size))
		return tell(o, "%s: %s", what, strerror(errno));
	tell(o, "%s: %d %s%s", what, size, name.sun_path, name.sun_path + !*name.sun_path);
}

static void tell_control(struct object *o, struct msghdr *message)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred *sender = (void *)CMSG_DATA(c);

			tell(o, "sent by %d, user %d", sender->pid, sender->uid);
		} else if (c->cmsg_type == SCM_RIGHTS) {
			int *fds = (int *)CMSG_DATA(c), n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			uint64_t what = n;

			for (int i = 0; i < n; i++) {
				struct stat st = { 0 };

				fstat(fds[i], &st);
				what = what * 31 + st.st_mode + st.st_size;
				close(fds[i]);
			}
			tell(o, "with %d descriptors: %016lx", n, what);
		}
	}
}

/* All messages, or a stream by parts; what comes with them, and by whom, if the socket asks for that. */
static void tell_queue(struct object *o, int fd)
{
	static char data[40000];
	size_t part = o->note[0] == SOCK_STREAM ? 700 : sizeof data;
	char space[4096];
	ssize_t size;

	setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int){ 0 }, sizeof(int));
	for (;;) {
		struct msghdr message = { .msg_iov = &(struct iovec){ data, part }, .msg_iovlen = 1,
					  .msg_control = space, .msg_controllen = sizeof space };

		size = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		/* That the peer closed with data unread is told once, and a dump is told it, too. */
		if (size < 0 && errno == ECONNRESET)
			continue;
		tell_bytes(o, "data", data, size);
		if (size <= 0)
			break;
		tell_control(o, &message);
	}
	setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int){ -1 }, sizeof(int));
}

static void tell_socket(struct object *o)
{
	static const int options[] = { SO_SNDBUF, SO_RCVBUF, SO_PASSCRED, SO_PRIORITY, SO_RCVLOWAT,
				       SO_PASSSEC, SO_TYPE, SO_ACCEPTCONN };

	for (int i = 0; i < o->fds; i++) {
		struct timeval time = { 0 };
		int fd = o->fd[i], unread = -1;

		if (fd < 0)
			continue;
		for (unsigned n = 0; n < sizeof options / sizeof *options; n++) {
			int value = -1;

			getsockopt(fd, SOL_SOCKET, options[n], &value, &(socklen_t){ sizeof value });
			tell(o, "socket %d: option %d is %d", i, options[n], value);
		}
		getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, &(socklen_t){ sizeof time });
		ioctl(fd, FIONREAD, &unread);
		tell(o, "socket %d: timeout %ld, unread %d", i, time.tv_sec, unread);
		tell_name(o, fd, "name", getsockname);
		if (*o->path || o->kind->make == make_pair) /* else it may be lost: docs/reference/preflight.md */
			tell_name(o, fd, "peer", getpeername);
		tell_queue(o, fd);
	}
	tell_descriptors(o); /* now that no error is pending */
}

const struct kind unix_kinds[] = {
	{ "unix-pair", make_pair, tell_socket }, { "unix-named", make_named, tell_socket }, { NULL, NULL, NULL }
};
