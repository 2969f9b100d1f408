/* holds_sockets.c - objects that are sockets. */
#include "holds.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/if_ether.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static int fd, other, third;

static void open_still(void)
{
	if (fcntl(fd, F_GETFD) < 0)
		fail("the socket is lost");
}

static struct sockaddr_un named(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	strncpy(addr.sun_path, path, sizeof addr.sun_path - 1);
	return addr;
}

static int unix_socket(int kind)
{
	return had(socket(AF_UNIX, kind | SOCK_CLOEXEC, 0), "socket");
}

/* Init's own control socket is outside of the tree. */
static void unix_outside_hold(void)
{
	struct sockaddr_un addr = named("/runtime/control.sock");

	fd = unix_socket(SOCK_STREAM);
	had(connect(fd, (void *)&addr, sizeof addr), addr.sun_path);
}

/* Says whether the other end has gone: what was sent can be read, then comes the end, and nothing can be written. */
static void say_closed(int sock)
{
	char byte;
	ssize_t got = recv(sock, &byte, 1, MSG_DONTWAIT);

	if (got < 0 && errno == EAGAIN)
		return say("closed=0");
	if (got != 0)
		fail("a read gives %zd: %s", got, strerror(errno));
	if (send(sock, "x", 1, MSG_NOSIGNAL) >= 0 || errno != EPIPE)
		fail("the connection can be written to");
	say("closed=1");
}

static void outside_check(void)
{
	say_closed(fd);
}

/* The test listens there, as an agent of the host does. */
static void unix_agent_hold(void)
{
	struct sockaddr_un addr = named("/store/agent");

	fd = unix_socket(SOCK_STREAM);
	had(connect(fd, (void *)&addr, sizeof addr), addr.sun_path);
}

/* Is one, in a container of its own. */
static void unix_sink_hold(void)
{
	struct sockaddr_un addr = named("/volume/log");

	fd = unix_socket(SOCK_DGRAM);
	had(bind(fd, (void *)&addr, sizeof addr), addr.sun_path);
	had(chmod(addr.sun_path, 0777), "chmod");
}

static void unix_sink_check(void)
{
	char text[64];
	ssize_t got, n = 0;

	while ((got = recv(fd, text, sizeof text, MSG_DONTWAIT)) > 0)
		n++;
	say("received=%zd", n);
}

static void unix_to_sink_hold(void)
{
	struct sockaddr_un addr = named("/volume/log");

	fd = unix_socket(SOCK_DGRAM);
	had(connect(fd, (void *)&addr, sizeof addr), addr.sun_path);
}

static void unix_to_sink_check(void)
{
	say("sent=%zd", send(fd, "hello", 5, MSG_DONTWAIT));
}

/* The test binds it, as a host does /dev/log. */
static void unix_log_hold(void)
{
	struct sockaddr_un addr = named("/store/log");

	fd = unix_socket(SOCK_DGRAM);
	had(connect(fd, (void *)&addr, sizeof addr), addr.sun_path);
}

static int unix_listener(const char *path)
{
	struct sockaddr_un addr = named(path);
	int sock = unix_socket(SOCK_STREAM);

	had(bind(sock, (void *)&addr, sizeof addr), path);
	had(listen(sock, 4), "listen");
	return sock;
}

static void unix_listen_hold(void)
{
	fd = unix_listener("/runtime/app.sock");
}

/* Bound through a link, to a folder with a blank in its name. */
static void unix_linked_hold(void)
{
	had(mkdir("/dev/shm/real folder", 0700), "mkdir");
	had(symlink("real folder", "/dev/shm/link to it"), "symlink");
	fd = unix_listener("/dev/shm/link to it/app.sock");
}

static void *accept_all(void *arg)
{
	(void)arg;
	for (;;)
		other = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	return NULL;
}

static void unix_accept_hold(void)
{
	pthread_t thread;

	fd = unix_listener("/runtime/app.sock");
	pthread_create(&thread, NULL, accept_all, NULL);
}

/* One connection that was accepted, one that waits; both ends are in the tree. */
static void unix_pair_hold(void)
{
	struct sockaddr_un addr = named("/dev/shm/app.sock");

	fd = unix_listener("/dev/shm/app.sock");
	other = unix_socket(SOCK_STREAM);
	had(connect(other, (void *)&addr, sizeof addr), addr.sun_path);
	third = had(accept4(fd, NULL, NULL, SOCK_CLOEXEC), "accept");
}

static void unix_pair_check(void)
{
	char byte;

	if (write(other, "x", 1) != 1 || read(third, &byte, 1) != 1)
		fail("the connection is lost");
}

static void unix_waiting_connect(void)
{
	struct sockaddr_un addr = named("/dev/shm/app.sock");

	other = unix_socket(SOCK_STREAM);
	had(connect(other, (void *)&addr, sizeof addr), addr.sun_path);
}

static void unix_waiting_hold(void)
{
	fd = unix_listener("/dev/shm/app.sock");
	unix_waiting_connect();
}

static void unix_waiting_check(void)
{
	int end = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	char byte;

	if (end < 0 || write(other, "x", 1) != 1 || read(end, &byte, 1) != 1)
		fail("the connection that waited is lost");
	close(end);
	close(other);
	unix_waiting_connect();
}

static void unix_waiting_closed_hold(void)
{
	unix_waiting_hold();
	close(other);
}

static void unix_waiting_data_hold(void)
{
	unix_waiting_hold();
	had(write(other, "x", 1), "write");
}

static void unix_waiting_half_hold(void)
{
	unix_waiting_hold();
	had(shutdown(other, SHUT_WR), "shutdown");
}

static void waiting_data_check(void)
{
	say_closed(other);
}

/* It still listens: whatever waited before this connection. */
static void listens_check(void)
{
	struct sockaddr_un addr;
	socklen_t size = sizeof addr;
	int end, mine, domain = 0;
	char byte = 0;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){ sizeof domain });
	getsockname(fd, (void *)&addr, &size);
	mine = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(mine, (void *)&addr, size) || write(mine, "y", 1) != 1)
		return fail("nobody listens");
	while (byte != 'y') {
		end = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (end < 0 || read(end, &byte, 1) < 0)
			return fail("a connection is lost");
		close(end);
	}
	close(mine);
}

/* Its other end is closed. */
static void unix_half_hold(void)
{
	int pair[2];

	had(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	fd = pair[0];
	close(pair[1]);
}

static void unix_unlinked_hold(void)
{
	fd = unix_listener("/dev/shm/app.sock");
	unlink("/dev/shm/app.sock");
}

static void seqpacket_hold(void)
{
	int pair[2];

	had(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), "socketpair");
	fd = pair[0];
	other = pair[1];
}

static void netlink_hold(void)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK };

	fd = had(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "netlink");
	had(bind(fd, (void *)&addr, sizeof addr), "bind");
}

static void netlink_groups_hold(void)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };

	fd = had(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "netlink");
	had(bind(fd, (void *)&addr, sizeof addr), "bind");
}

static void uevent_hold(void)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };

	fd = had(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT), "netlink");
	had(bind(fd, (void *)&addr, sizeof addr), "bind");
}

static void packet_hold(void)
{
	fd = had(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)), "packet");
}

static void raw_hold(void)
{
	fd = had(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP), "raw");
}

static void ping_hold(void)
{
	fd = had(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP), "ping");
}

static void vsock_hold(void)
{
	fd = had(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), "vsock");
}

static void alg_hold(void)
{
	fd = had(socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "alg");
}

static void mptcp_hold(void)
{
	fd = had(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 262), "mptcp");
}

static struct sockaddr_in at(const char *ip, int port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, ip, &addr.sin_addr);
	return addr;
}

static int tcp(void)
{
	int sock = had(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	return sock;
}

static int listener_on(const char *ip)
{
	struct sockaddr_in addr = at(ip, 7001);
	int sock = tcp();

	had(bind(sock, (void *)&addr, sizeof addr), ip);
	had(listen(sock, 4), "listen");
	return sock;
}

static void tcp_address_hold(void)
{
	fd = listener_on("127.0.0.2"); /* the sandbox has lo alone; all of 127/8 is there */
}

static void tcp_wildcard_hold(void)
{
	fd = listener_on("0.0.0.0");
}

static void tcp_established_hold(void)
{
	struct sockaddr_in addr = at("127.0.0.1", 7001);

	fd = listener_on("0.0.0.0");
	other = tcp();
	had(connect(other, (void *)&addr, sizeof addr), "connect");
	third = had(accept4(fd, NULL, NULL, SOCK_CLOEXEC), "accept");
}

static void tcp_half_hold(void)
{
	tcp_established_hold();
	close(other);
}

static void tcp_waiting_closed_hold(void)
{
	struct sockaddr_in addr = at("127.0.0.1", 7001);

	fd = listener_on("0.0.0.0");
	other = tcp();
	had(connect(other, (void *)&addr, sizeof addr), "connect");
	close(other);
}

/* Nobody answers: the other side has no room. */
static void tcp_connecting_hold(void)
{
	struct sockaddr_in addr = at("127.0.0.1", 7001);

	fd = listener_on("0.0.0.0");
	had(listen(fd, 0), "listen");
	other = tcp();
	had(connect(other, (void *)&addr, sizeof addr), "connect");
	third = tcp();
	had(fcntl(third, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
	if (connect(third, (void *)&addr, sizeof addr) == 0 || errno != EINPROGRESS)
		cannot("connecting for ever");
}

static void tcp_unconnected_hold(void)
{
	fd = tcp();
}

static void udp_hold(void)
{
	struct sockaddr_in addr = at("0.0.0.0", 7001);

	fd = had(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	had(bind(fd, (void *)&addr, sizeof addr), "bind");
}

static void udp_connected_hold(void)
{
	struct sockaddr_in addr = at("127.0.0.1", 7009);

	fd = had(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	had(connect(fd, (void *)&addr, sizeof addr), "connect");
}

static void udp_connected_check(void)
{
	struct sockaddr_in addr;
	socklen_t size = sizeof addr;

	if (getpeername(fd, (void *)&addr, &size) || addr.sin_port != htons(7009))
		fail("the socket is not connected any more");
}

/* An address of this container, as far as freeze can tell. */
static void udp_address_hold(void)
{
	struct sockaddr_in addr = at("10.9.8.7", 7001);
	int one = 1;

	fd = had(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	had(setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof one), "IP_FREEBIND");
	had(bind(fd, (void *)&addr, sizeof addr), "bind");
}

/*
 * A socket in groups of both families: one of all sources, one without some, and one with only some. Another socket is
 * in none of them.
 */
static const struct membership {
	int family;
	const char *group;
	uint32_t mode;
	const char *sources[2];
} memberships[] = {
	{ AF_INET, "239.1.2.3", MCAST_EXCLUDE, { NULL } },
	{ AF_INET, "239.1.2.4", MCAST_EXCLUDE, { "10.0.0.1", "10.0.0.2" } },
	{ AF_INET, "232.1.2.5", MCAST_INCLUDE, { "10.0.0.3" } },
	{ AF_INET6, "ff15::1:2:3", MCAST_EXCLUDE, { NULL } },
	{ AF_INET6, "ff35::1:2:4", MCAST_INCLUDE, { "fd00::1", "fd00::2" } },
};
enum { MEMBERSHIPS = sizeof memberships / sizeof *memberships };

static struct sockaddr_storage address_of(int family, const char *text)
{
	struct sockaddr_storage ss = { .ss_family = family };

	inet_pton(family, text,
		  family == AF_INET ? (void *)&((struct sockaddr_in *)&ss)->sin_addr : (void *)&((struct sockaddr_in6 *)&ss)->sin6_addr);
	return ss;
}

static int level_of(int family) { return family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6; }

static void multicast_hold(void)
{
	fd = had(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	other = had(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	for (int i = 0; i < MEMBERSHIPS; i++) {
		const struct membership *m = &memberships[i];
		struct group_req join = { 1, address_of(m->family, m->group) };

		if (m->mode == MCAST_EXCLUDE)
			had(setsockopt(fd, level_of(m->family), MCAST_JOIN_GROUP, &join, sizeof join), m->group);
		for (int k = 0; k < 2 && m->sources[k]; k++) {
			struct group_source_req source = { 1, join.gr_group, address_of(m->family, m->sources[k]) };

			had(setsockopt(fd, level_of(m->family), m->mode == MCAST_EXCLUDE ? MCAST_BLOCK_SOURCE : MCAST_JOIN_SOURCE_GROUP,
				       &source, sizeof source),
			    m->sources[k]);
		}
	}
}

static int filter_of(int sock, const struct membership *m, struct group_filter *filter)
{
	socklen_t size = GROUP_FILTER_SIZE(4);

	*filter = (struct group_filter){ .gf_interface = 1, .gf_group = address_of(m->family, m->group), .gf_numsrc = 4 };
	return getsockopt(sock, level_of(m->family), MCAST_MSFILTER, filter, &size);
}

static void multicast_check(void)
{
	static char memory[GROUP_FILTER_SIZE(4)];
	struct group_filter *filter = (void *)memory;

	for (int i = 0; i < MEMBERSHIPS; i++) {
		const struct membership *m = &memberships[i];
		uint32_t sources = !!m->sources[0] + !!m->sources[1];

		if (filter_of(fd, m, filter))
			fail("the multicast group %s is lost", m->group);
		else if (filter->gf_fmode != m->mode || filter->gf_numsrc != sources)
			fail("%s has mode %u and %u sources", m->group, filter->gf_fmode, filter->gf_numsrc);
		if (!filter_of(other, m, filter))
			fail("another socket is in %s", m->group);
	}
}

/* One end is on its way from fd to other, and nobody has it open. */
static void in_flight_send(int end)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 'x';
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(rights), &end, sizeof end);
	had(sendmsg(fd, &message, 0), "sendmsg");
	close(end);
}

static void unix_in_flight_hold(void)
{
	int ends[2];

	had(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
	fd = ends[0];
	other = ends[1];
	had(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
	third = ends[0];
	in_flight_send(ends[1]);
}

static void unix_in_flight_check(void)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	int end;

	if (recvmsg(other, &message, 0) != 1 || !CMSG_FIRSTHDR(&message)) {
		fail("the message with a descriptor is lost");
		return;
	}
	memcpy(&end, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof end);
	if (write(end, "y", 1) != 1 || read(third, &byte, 1) != 1 || byte != 'y')
		fail("the descriptor that was under way leads elsewhere");
	in_flight_send(end);
}

/* Port 80, where the container lets everybody bind it. */
static void port_80_hold(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(80) };

	fd = had(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	had(bind(fd, (void *)&addr, sizeof addr), "bind");
	had(listen(fd, 1), "listen");
}

const struct object socket_objects[] = {
	{ "port-80", port_80_hold, open_still },
	{ "unix-outside", unix_outside_hold, outside_check },
	{ "unix-agent", unix_agent_hold, outside_check },
	{ "unix-sink", unix_sink_hold, unix_sink_check },
	{ "unix-to-sink", unix_to_sink_hold, unix_to_sink_check },
	{ "unix-log", unix_log_hold, open_still },
	{ "unix-listen", unix_listen_hold, open_still },
	{ "unix-linked", unix_linked_hold, open_still },
	{ "unix-accept", unix_accept_hold, open_still },
	{ "unix-pair", unix_pair_hold, unix_pair_check },
	{ "unix-in-flight", unix_in_flight_hold, unix_in_flight_check },
	{ "unix-waiting", unix_waiting_hold, unix_waiting_check },
	{ "unix-waiting-closed", unix_waiting_closed_hold, listens_check },
	{ "unix-waiting-data", unix_waiting_data_hold, waiting_data_check },
	{ "unix-waiting-half", unix_waiting_half_hold, open_still },
	{ "unix-half", unix_half_hold, open_still },
	{ "unix-unlinked", unix_unlinked_hold, open_still },
	{ "seqpacket", seqpacket_hold, open_still },
	{ "netlink", netlink_hold, open_still },
	{ "netlink-groups", netlink_groups_hold, open_still },
	{ "uevent", uevent_hold, open_still },
	{ "packet", packet_hold, open_still },
	{ "raw", raw_hold, open_still },
	{ "ping", ping_hold, open_still },
	{ "vsock", vsock_hold, open_still },
	{ "alg", alg_hold, open_still },
	{ "mptcp", mptcp_hold, open_still },
	{ "tcp-address", tcp_address_hold, open_still },
	{ "tcp-wildcard", tcp_wildcard_hold, open_still },
	{ "tcp-established", tcp_established_hold, open_still },
	{ "tcp-half", tcp_half_hold, open_still },
	{ "tcp-waiting-closed", tcp_waiting_closed_hold, listens_check },
	{ "tcp-connecting", tcp_connecting_hold, open_still },
	{ "tcp-unconnected", tcp_unconnected_hold, open_still },
	{ "udp", udp_hold, open_still },
	{ "udp-address", udp_address_hold, open_still },
	{ "udp-connected", udp_connected_hold, udp_connected_check },
	{ "multicast", multicast_hold, multicast_check },
	{ 0 },
};
