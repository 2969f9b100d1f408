/* network.c - TCP and UDP over loopback, of both versions of IP. */
#include "states.h"
#include <netinet/in.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

union address {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
};

static socklen_t loopback(union address *address, int family, bool any)
{
	*address = (union address){ 0 };
	address->any.sa_family = family;
	if (family == AF_INET6) {
		address->six.sin6_addr = any ? in6addr_any : in6addr_loopback;
		return sizeof address->six;
	}
	address->four.sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK);
	return sizeof address->four;
}

static void set_options(struct object *o, int fd, bool tcp)
{
	static const int any[] = { SO_KEEPALIVE, SO_PRIORITY, SO_REUSEADDR, SO_RCVLOWAT };
	static const int of_tcp[] = { TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPCNT, TCP_KEEPINTVL, TCP_USER_TIMEOUT };

	for (int i = draw(o, 4); i > 0; i--)
		setsockopt(fd, SOL_SOCKET, any[draw(o, 4)], &(int){ 1 + draw(o, 5) }, sizeof(int));
	for (int i = tcp ? draw(o, 4) : 0; i > 0; i--)
		setsockopt(fd, IPPROTO_TCP, of_tcp[draw(o, 5)], &(int){ 1 + draw(o, 100) }, sizeof(int));
	if (toss(o))
		fcntl(fd, F_SETFL, O_NONBLOCK);
}

static int bound(struct object *o, int type)
{
	int family = PICK(o, AF_INET, AF_INET6), fd = keep(o, socket(family, type, 0));
	union address address;
	socklen_t size = loopback(&address, family, !draw(o, 3));

	if (fd < 0)
		return -1;
	set_options(o, fd, type == SOCK_STREAM);
	return bind(fd, &address.any, size) ? -1 : fd;
}

/* A socket of the same kind that is connected to `to`. */
static int connected(struct object *o, int to, int type)
{
	union address address, peer;
	socklen_t size = sizeof address;
	int fd;

	if (getsockname(to, &address.any, &size))
		return -1;
	loopback(&peer, address.any.sa_family, false);
	peer.four.sin_port = address.four.sin_port; /* at the same place in both */
	fd = keep(o, socket(address.any.sa_family, type, 0));
	if (fd < 0)
		return -1;
	return connect(fd, &peer.any, size) ? -1 : fd;
}

static void send_some(struct object *o, int fd)
{
	char data[2000];

	for (int i = draw(o, 4); i > 0; i--) {
		size_t size = 1 + draw(o, sizeof data - 1);

		fill(o, data, size);
		send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

/* Until all has arrived: what is under way changes by itself. */
static void settle(int fd)
{
	int unsent = 1;

	for (int tries = 0; tries < 300 && unsent && !ioctl(fd, SIOCOUTQ, &unsent); tries++)
		nap();
}

static int make_tcp(struct object *o)
{
	int listener = bound(o, SOCK_STREAM), client, server;

	if (listener < 0 || (draw(o, 5) && listen(listener, draw(o, 100))) || toss(o))
		return listener < 0 ? -1 : 0;
	if (listen(listener, 5))
		return -1;
	client = connected(o, listener, SOCK_STREAM);
	server = keep(o, accept(listener, NULL, NULL));
	if (client < 0 || server < 0)
		return -1;
	set_options(o, client, true);
	set_options(o, server, true);
	send_some(o, client);
	send_some(o, server);
	if (!draw(o, 3))
		shutdown(client, SHUT_WR);
	settle(client);
	settle(server);
	if (!draw(o, 4)) {
		close(listener);
		o->fd[0] = -1;
	}
	return 0;
}

static int make_udp(struct object *o)
{
	int fd = bound(o, SOCK_DGRAM), client;

	if (fd < 0 || toss(o))
		return fd;
	client = connected(o, fd, SOCK_DGRAM);
	if (client < 0)
		return -1;
	set_options(o, client, false);
	return 0;
}

static void tell_name(struct object *o, int fd, const char *what, int (*get)(int, struct sockaddr *, socklen_t *))
{
	union address name = { 0 };
	socklen_t size = sizeof name;

	if (get(fd, &name.any, &size))
		return tell(o, "%s: %s", what, strerror(errno));
	tell(o, "%s: family %d port %d, %016lx", what, name.any.sa_family, ntohs(name.four.sin_port),
	     checksum(&name, size));
}

static void tell_options(struct object *o, int fd)
{
	static const int any[] = { SO_KEEPALIVE, SO_PRIORITY, SO_REUSEADDR,
				   SO_RCVLOWAT, SO_TYPE,   SO_ACCEPTCONN };
	static const int of_tcp[] = { TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPCNT, TCP_KEEPINTVL, TCP_USER_TIMEOUT };

	for (unsigned i = 0; i < sizeof any / sizeof *any; i++) {
		int value = -1;

		getsockopt(fd, SOL_SOCKET, any[i], &value, &(socklen_t){ sizeof value });
		tell(o, "option %d is %d", any[i], value);
	}
	for (unsigned i = 0; i < sizeof of_tcp / sizeof *of_tcp; i++) {
		int value = -1;

		if (!getsockopt(fd, IPPROTO_TCP, of_tcp[i], &value, &(socklen_t){ sizeof value }))
			tell(o, "option %d of TCP is %d", of_tcp[i], value);
	}
}

static void tell_socket(struct object *o)
{
	tell_descriptors(o);
	for (int i = 0; i < o->fds; i++) {
		char data[8192];
		struct tcp_info info = { 0 };
		int fd = o->fd[i];

		if (fd < 0)
			continue;
		tell_options(o, fd);
		tell_name(o, fd, "name", getsockname);
		tell_name(o, fd, "peer", getpeername);
		/* Which of two states it is in depends on when the other end acknowledges. */
		if (!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){ sizeof info }))
			tell(o, "state %d", info.tcpi_state == TCP_FIN_WAIT1 ? TCP_FIN_WAIT2 : info.tcpi_state);
		tell_bytes(o, "data", data, recv(fd, data, sizeof data, MSG_PEEK | MSG_DONTWAIT));
	}
}

const struct kind network_kinds[] = {
	{ "tcp", make_tcp, tell_socket }, { "udp", make_udp, tell_socket }, { NULL, NULL, NULL }
};
