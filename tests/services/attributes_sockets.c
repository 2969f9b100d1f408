/* attributes_sockets.c - options of sockets: one socket of each kind, and all options that it takes. */
#include "attributes.h"
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

/* Newer than the headers. */
enum { PASSPIDFD = 76, RCVPRIORITY = 82, PASSRIGHTS = 83, UNIX_INQ = 84, RTO_MAX = 44, RTO_MIN = 45, DELACK_MAX = 46, LOCAL_PORTS = 51 };
enum { RFC4884 = 26, RFC4884_6 = 31, DROP_OTHERS = 29, ADDR_PREFERENCES = 72 };

enum { STREAM4 = 1, STREAM6 = 2, UDP4 = 4, UDP6 = 8, LOCAL = 16, NETLINK = 32, CLOSED4 = 64 };
enum { TCP = STREAM4 | STREAM6, UDP = UDP4 | UDP6, INET4 = STREAM4 | UDP4, INET6 = STREAM6 | UDP6, INET = TCP | UDP,
       ALL = INET | LOCAL | NETLINK };

static struct kind {
	const char *group;
	int bit, family, type, protocol, fd;
} kinds[] = {
	{ "tcp", STREAM4, AF_INET, SOCK_STREAM, 0, -1 },    { "tcp6", STREAM6, AF_INET6, SOCK_STREAM, 0, -1 },
	{ "udp", UDP4, AF_INET, SOCK_DGRAM, 0, -1 },	    { "udp6", UDP6, AF_INET6, SOCK_DGRAM, 0, -1 },
	{ "unix", LOCAL, AF_UNIX, SOCK_DGRAM, 0, -1 },	    { "netlink", NETLINK, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, -1 },
	{ "tcp-closed", CLOSED4, AF_INET, SOCK_STREAM, 0, -1 },
};

static struct sock_filter code[] = { { BPF_RET | BPF_K, 0, 0, 0xffff } };

struct option {
	const char *name;
	int kinds, level, option;
	socklen_t size; /* 0: an int */
	union {
		int number;
		uint64_t wide;
		unsigned char bytes[40];
		struct linger linger;
		struct timeval time;
		struct sock_fprog filter;
		struct sock_txtime txtime;
		struct so_timestamping stamps;
	} value;
};

#define O(kinds, level, name, n) { #name, kinds, level, name, 0, { .number = n } },
#define SIZED(kinds, level, name, size, ...) { #name, kinds, level, name, size, { __VA_ARGS__ } },
#define NEW(kinds, level, name, option, n) { name, kinds, level, option, 0, { .number = n } },

static const struct option options[] = {
	O(ALL, SOL_SOCKET, SO_SNDBUF, 50000)
	O(ALL, SOL_SOCKET, SO_RCVBUF, 60000)
	O(INET, SOL_SOCKET, SO_RCVLOWAT, 10)
	O(INET, SOL_SOCKET, SO_REUSEADDR, 1)
	O(INET, SOL_SOCKET, SO_REUSEPORT, 1)
	O(ALL, SOL_SOCKET, SO_DONTROUTE, 1)
	O(UDP, SOL_SOCKET, SO_BROADCAST, 1)
	O(TCP | UDP, SOL_SOCKET, SO_KEEPALIVE, 1)
	O(TCP | UDP, SOL_SOCKET, SO_OOBINLINE, 1)
	O(UDP, SOL_SOCKET, SO_NO_CHECK, 1)
	O(LOCAL | NETLINK, SOL_SOCKET, SO_PASSCRED, 1)
	O(LOCAL, SOL_SOCKET, SO_PASSSEC, 1)
	NEW(LOCAL, SOL_SOCKET, "SO_PASSPIDFD", PASSPIDFD, 1)
	NEW(LOCAL, SOL_SOCKET, "SO_PASSRIGHTS", PASSRIGHTS, 0)
	SIZED(ALL, SOL_SOCKET, SO_LINGER, sizeof(struct linger), .linger = { 1, 3 })
	SIZED(ALL, SOL_SOCKET, SO_RCVTIMEO, sizeof(struct timeval), .time = { 3, 0 })
	SIZED(ALL, SOL_SOCKET, SO_SNDTIMEO, sizeof(struct timeval), .time = { 4, 0 })
	SIZED(ALL, SOL_SOCKET, SO_ATTACH_FILTER, sizeof(struct sock_fprog), .filter = { 1, code })
	O(UDP, SOL_SOCKET, SO_LOCK_FILTER, 1)
	O(UDP | LOCAL, SOL_SOCKET, SO_RXQ_OVFL, 1)
	O(UDP | LOCAL, SOL_SOCKET, SO_PEEK_OFF, 4)
	O(UDP, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1)
	O(UDP, SOL_SOCKET, SO_NOFCS, 1)
	SIZED(INET, SOL_SOCKET, SO_MAX_PACING_RATE, 8, .wide = 123456789012)
	O(INET, SOL_SOCKET, SO_INCOMING_CPU, 1)
	O(INET, SOL_SOCKET, SO_ZEROCOPY, 1)
	O(TCP, SOL_SOCKET, SO_TXREHASH, 0)
	SIZED(UDP, SOL_SOCKET, SO_TXTIME, sizeof(struct sock_txtime), .txtime = { CLOCK_MONOTONIC, SOF_TXTIME_REPORT_ERRORS })
	O(UDP | LOCAL, SOL_SOCKET, SO_TIMESTAMP, 1)
	O(STREAM4, SOL_SOCKET, SO_TIMESTAMPNS, 1)
	O(STREAM6, SOL_SOCKET, SO_TIMESTAMP_NEW, 1)
	O(CLOSED4, SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
	SIZED(UDP, SOL_SOCKET, SO_TIMESTAMPING, sizeof(struct so_timestamping),
	      .stamps = { SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE, 0 })
	O(INET, SOL_SOCKET, SO_BUSY_POLL, 20)
	O(INET, SOL_SOCKET, SO_MARK, 7)
	O(INET, SOL_SOCKET, SO_RCVMARK, 1)
	NEW(INET, SOL_SOCKET, "SO_RCVPRIORITY", RCVPRIORITY, 1)
	O(ALL, SOL_SOCKET, SO_BUF_LOCK, 1)

	O(INET, IPPROTO_IP, IP_TOS, 0x10)
	O(ALL, SOL_SOCKET, SO_PRIORITY, 5)
	O(INET, IPPROTO_IP, IP_TTL, 40)
	O(INET, IPPROTO_IP, IP_MINTTL, 3)
	O(INET4, IPPROTO_IP, IP_FREEBIND, 1)
	O(INET, IPPROTO_IP, IP_PKTINFO, 1)
	O(INET, IPPROTO_IP, IP_RECVERR, 1)
	O(INET, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
	O(UDP4, IPPROTO_IP, IP_RECVTOS, 1)
	O(UDP4, IPPROTO_IP, IP_RECVTTL, 1)
	O(UDP4, IPPROTO_IP, IP_RECVOPTS, 1)
	O(UDP4, IPPROTO_IP, IP_RETOPTS, 1)
	O(UDP4, IPPROTO_IP, IP_PASSSEC, 1)
	O(UDP4, IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
	O(UDP4, IPPROTO_IP, IP_RECVFRAGSIZE, 1)
	O(UDP4, IPPROTO_IP, IP_CHECKSUM, 1)
	NEW(UDP4, IPPROTO_IP, "IP_RECVERR_RFC4884", RFC4884, 1)
	O(INET4, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
	NEW(INET4, IPPROTO_IP, "IP_LOCAL_PORT_RANGE", LOCAL_PORTS, 40000 | 50000 << 16)
	SIZED(INET4, IPPROTO_IP, IP_OPTIONS, 4, .bytes = { 1, 1, 1, 0 })
	O(UDP4, IPPROTO_IP, IP_MULTICAST_TTL, 9)
	O(UDP4, IPPROTO_IP, IP_MULTICAST_LOOP, 0)
	O(UDP4, IPPROTO_IP, IP_MULTICAST_ALL, 0)
	SIZED(UDP4, IPPROTO_IP, IP_MULTICAST_IF, 4, .bytes = { 127, 0, 0, 1 })
	SIZED(UDP4, IPPROTO_IP, IP_UNICAST_IF, 4, .bytes = { 0, 0, 0, 1 })
	O(INET4, IPPROTO_IP, IP_TRANSPARENT, 1)

	O(INET6, IPPROTO_IPV6, IPV6_V6ONLY, 1)
	O(INET6, IPPROTO_IPV6, IPV6_TCLASS, 0x20)
	O(INET6, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 41)
	O(INET6, IPPROTO_IPV6, IPV6_MINHOPCOUNT, 4)
	O(INET6, IPPROTO_IPV6, IPV6_FREEBIND, 1)
	O(INET6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
	O(INET6, IPPROTO_IPV6, IPV6_RECVERR, 1)
	NEW(UDP6, IPPROTO_IPV6, "IPV6_RECVERR_RFC4884", RFC4884_6, 1)
	O(INET6, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
	O(INET6, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
	O(INET6, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
	O(UDP6, IPPROTO_IPV6, IPV6_RECVHOPOPTS, 1)
	O(UDP6, IPPROTO_IPV6, IPV6_RECVDSTOPTS, 1)
	O(UDP6, IPPROTO_IPV6, IPV6_RECVRTHDR, 1)
	O(UDP6, IPPROTO_IPV6, IPV6_RECVPATHMTU, 1)
	NEW(UDP6, IPPROTO_IPV6, "IPV6_RECVORIGDSTADDR", 74, 1)
	NEW(UDP6, IPPROTO_IPV6, "IPV6_RECVFRAGSIZE", 77, 1)
	NEW(UDP6, IPPROTO_IPV6, "IPV6_FLOWINFO", 11, 1)
	O(INET6, IPPROTO_IPV6, IPV6_DONTFRAG, 1)
	O(INET6, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0)
	NEW(INET6, IPPROTO_IPV6, "IPV6_FLOWINFO_SEND", 33, 1)
	NEW(INET6, IPPROTO_IPV6, "IPV6_ADDR_PREFERENCES", ADDR_PREFERENCES, 2)
	O(UDP6, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 9)
	O(UDP6, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0)
	O(UDP6, IPPROTO_IPV6, IPV6_MULTICAST_IF, 1)
	NEW(UDP6, IPPROTO_IPV6, "IPV6_MULTICAST_ALL", DROP_OTHERS, 0)
	NEW(UDP6, IPPROTO_IPV6, "IPV6_UNICAST_IF", 76, 1 << 24)
	NEW(INET6, IPPROTO_IPV6, "IPV6_TRANSPARENT", 75, 1)

	O(TCP, IPPROTO_TCP, TCP_NODELAY, 1)
	O(TCP, IPPROTO_TCP, TCP_MAXSEG, 1200)
	O(TCP, IPPROTO_TCP, TCP_CORK, 1)
	O(TCP, IPPROTO_TCP, TCP_KEEPIDLE, 33)
	O(TCP, IPPROTO_TCP, TCP_KEEPINTVL, 11)
	O(TCP, IPPROTO_TCP, TCP_KEEPCNT, 4)
	O(TCP, IPPROTO_TCP, TCP_SYNCNT, 3)
	O(TCP, IPPROTO_TCP, TCP_LINGER2, 5)
	O(TCP, IPPROTO_TCP, TCP_DEFER_ACCEPT, 7)
	O(TCP, IPPROTO_TCP, TCP_WINDOW_CLAMP, 40000)
	O(TCP, IPPROTO_TCP, TCP_QUICKACK, 0)
	SIZED(TCP, IPPROTO_TCP, TCP_CONGESTION, 5, .bytes = "reno")
	O(TCP, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1)
	O(TCP, IPPROTO_TCP, TCP_USER_TIMEOUT, 9000)
	O(TCP, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16384)
	O(TCP, IPPROTO_TCP, TCP_SAVE_SYN, 1)
	O(TCP, IPPROTO_TCP, TCP_INQ, 1)
	O(TCP, IPPROTO_TCP, TCP_TX_DELAY, 1000)
	O(TCP, IPPROTO_TCP, TCP_FASTOPEN, 64)
	SIZED(TCP, IPPROTO_TCP, TCP_FASTOPEN_KEY, 16, .bytes = "0123456789abcdef")
	O(TCP, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
	O(CLOSED4, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
	NEW(TCP, IPPROTO_TCP, "TCP_RTO_MAX_MS", RTO_MAX, 5000)
	NEW(TCP, IPPROTO_TCP, "TCP_RTO_MIN_US", RTO_MIN, 100000)
	NEW(TCP, IPPROTO_TCP, "TCP_DELACK_MAX_US", DELACK_MAX, 20000)

	O(UDP, IPPROTO_UDP, UDP_CORK, 1)
	O(UDP4, IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
	O(UDP6, IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
	O(UDP6, IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
	O(UDP, IPPROTO_UDP, UDP_SEGMENT, 1200)
	O(UDP, IPPROTO_UDP, UDP_GRO, 1)

	O(NETLINK, SOL_NETLINK, NETLINK_PKTINFO, 1)
	O(NETLINK, SOL_NETLINK, NETLINK_BROADCAST_ERROR, 1)
	O(NETLINK, SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
	O(NETLINK, SOL_NETLINK, NETLINK_CAP_ACK, 1)
	O(NETLINK, SOL_NETLINK, NETLINK_EXT_ACK, 1)
	O(NETLINK, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

	/* Limits what others may be. */
	SIZED(UDP, SOL_SOCKET, SO_BINDTODEVICE, 3, .bytes = "lo")
};

static int set_option(const struct attribute *a)
{
	const struct option *o = a->what;

	if (o->level == IPPROTO_IPV6 && o->option == IPV6_V6ONLY)
		return CREATED;
	return setsockopt(a->fd, o->level, o->option, &o->value, o->size ? o->size : sizeof(int));
}

static void get_option(const struct attribute *a, struct value *v)
{
	const struct option *o = a->what;
	socklen_t size = o->option == SO_ATTACH_FILTER && o->level == SOL_SOCKET ? 8 : sizeof v->bytes;

	v->size = 0;
	if (o->level == SOL_SOCKET && o->option == SO_MAX_PACING_RATE)
		size = 8;
	if (!getsockopt(a->fd, o->level, o->option, v->bytes, &size))
		v->size = size;
}

/* The queue of a listening socket, as it was given to listen(2). */
static void get_backlog(const struct attribute *a, struct value *v)
{
	struct tcp_info info;
	socklen_t size = sizeof info;

	if (!getsockopt(a->fd, IPPROTO_TCP, TCP_INFO, &info, &size))
		put(v, "%u", info.tcpi_sacked);
}

static int set_backlog(const struct attribute *a) { return listen(a->fd, 9); }

static void open_kind(struct kind *kind)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(7100 + kind->bit) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(7100 + kind->bit) };
	struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "/tmp/attributes" };
	struct sockaddr_nl nl = { .nl_family = AF_NETLINK };

	kind->fd = socket(kind->family, kind->type | SOCK_CLOEXEC, kind->protocol);
	if (kind->fd < 0)
		cannot(kind->group);
	if (kind->bit & INET6) /* while it is not bound */
		setsockopt(kind->fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 1 }, sizeof(int));
	switch (kind->bit) {
	case STREAM4: case UDP4: bind(kind->fd, (void *)&in, sizeof in); break;
	case STREAM6: case UDP6: bind(kind->fd, (void *)&in6, sizeof in6); break;
	case LOCAL: bind(kind->fd, (void *)&un, sizeof un); break;
	case NETLINK: bind(kind->fd, (void *)&nl, sizeof nl); break;
	}
	if (kind->bit & TCP && listen(kind->fd, 16))
		cannot(kind->group);
}

void add_socket_attributes(void)
{
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		open_kind(&kinds[k]);
		for (size_t i = 0; i < sizeof options / sizeof *options; i++)
			if (options[i].kinds & kinds[k].bit)
				add((struct attribute){ kinds[k].group, options[i].name, set_option, get_option, &options[i],
							kinds[k].fd, false });
		if (kinds[k].bit & TCP)
			add((struct attribute){ kinds[k].group, "listen", set_backlog, get_backlog, NULL, kinds[k].fd, false });
	}
}
