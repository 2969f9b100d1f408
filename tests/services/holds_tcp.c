/*
 * holds_tcp.c - TCP connections whose both ends are the service's, in every state that they can be in. A check reads
 * what has to be there, and makes the same state again.
 */
#include "holds.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { PORT = 7001, MANY = 700, BLOCK = 40000 };

/* One direction of a connection. Byte number N of all that is sent is known, so nothing is lost or comes twice. */
struct flow {
	uint64_t sent, got;
};

static struct connection {
	int client, server;
	struct flow to_client, to_server;
} pair, twin, many[MANY];
static int listener = -1;
/* With more under way, a dump of older kernels can't bring all of it together. */
static int send_buffer;
static const char *server_ip = "127.0.0.1", *client_ip = "127.0.0.1";

static socklen_t at(struct sockaddr_storage *addr, const char *ip, int port)
{
	struct sockaddr_in6 *six = (void *)addr;
	struct sockaddr_in *four = (void *)addr;

	memset(addr, 0, sizeof *addr);
	if (inet_pton(AF_INET, ip, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof *four;
	}
	inet_pton(AF_INET6, ip, &six->sin6_addr);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof *six;
}

static int tcp(const char *ip, int port)
{
	struct sockaddr_storage addr;
	socklen_t size = at(&addr, ip, port);
	int fd = had(socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	had(bind(fd, (void *)&addr, size), ip);
	return fd;
}

static int listen_at(const char *ip, int port)
{
	int fd = tcp(ip, port);

	had(listen(fd, 8), "listen");
	return fd;
}

static void set(int fd, int level, int name, int value)
{
	had(setsockopt(fd, level, name, &value, sizeof value), "setsockopt");
}

/* The client takes any port, or the given one. */
static int connect_to(const char *ip, int port)
{
	struct sockaddr_storage addr;
	int fd = tcp(client_ip, port);
	socklen_t size = at(&addr, ip, PORT);

	had(connect(fd, (void *)&addr, size), "connect");
	return fd;
}

static void make(struct connection *c)
{
	*c = (struct connection){ .client = connect_to(server_ip, 0) };
	if (send_buffer)
		set(c->client, SOL_SOCKET, SO_SNDBUF, send_buffer);
	c->server = had(accept4(listener, NULL, NULL, SOCK_CLOEXEC), "accept");
	had(fcntl(c->client, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
	had(fcntl(c->server, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
}

static void unmake(struct connection *c)
{
	close(c->client);
	close(c->server);
}

static char byte(uint64_t n)
{
	return (n * 0x9e3779b97f4a7c15U) >> 56;
}

/* Sends SIZE bytes, or all that the kernel takes. */
static void put(int fd, struct flow *flow, size_t size)
{
	char block[BLOCK];
	int idle = 0;
	ssize_t n;

	for (uint64_t end = flow->sent + size; flow->sent < end && idle < 20;) {
		size_t some = end - flow->sent < BLOCK ? end - flow->sent : BLOCK;

		for (size_t i = 0; i < some; i++)
			block[i] = byte(flow->sent + i);
		n = write(fd, block, some);
		if (n < 0 && errno != EAGAIN)
			return fail("can't write: %s", strerror(errno));
		if (n < 0) {
			idle++;
			nap();
			continue;
		}
		flow->sent += n;
	}
}

static int right(const char *block, ssize_t n, struct flow *flow)
{
	for (ssize_t i = 0; i < n; i++)
		if (block[i] != byte(flow->got + i))
			return 0;
	flow->got += n;
	return 1;
}

enum end { OPEN, CLOSED };

/* Everything that was sent is there, and then nothing or the end of file. */
static void take(int fd, struct flow *flow, enum end end)
{
	char block[BLOCK];
	int idle = 0;
	ssize_t n;

	while (idle < 200) {
		n = read(fd, block, sizeof block);
		if (n > 0 && !right(block, n, flow))
			return fail("wrong bytes at %lu", (long)flow->got);
		if (n == 0 && end == CLOSED && flow->got == flow->sent)
			return;
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return fail("ends at %lu of %lu: %s", (long)flow->got, (long)flow->sent,
				    n ? strerror(errno) : "closed");
		if (n > 0)
			continue;
		if (flow->got == flow->sent && end == OPEN)
			return;
		idle++;
		nap();
	}
	fail("stops at %lu of %lu", (long)flow->got, (long)flow->sent);
}

static void take_both(struct connection *c)
{
	take(c->server, &c->to_server, OPEN);
	take(c->client, &c->to_client, OPEN);
}

static void exchange(struct connection *c)
{
	put(c->client, &c->to_server, 5);
	put(c->server, &c->to_client, 3);
	take_both(c);
}

static void quiet_hold(void)
{
	listener = listen_at("0.0.0.0", PORT);
	make(&pair);
}

static void quiet_check(void)
{
	exchange(&pair);
}

static void refill_unread(void)
{
	put(pair.client, &pair.to_server, 100000);
	put(pair.server, &pair.to_client, 10);
}

static void unread_hold(void)
{
	quiet_hold();
	refill_unread();
}

static void unread_check(void)
{
	take_both(&pair);
	refill_unread();
}

/* The receiver has not read for long, so most of it is in the sender's queue. */
static void refill(void)
{
	put(pair.client, &pair.to_server, SIZE_MAX >> 1);
}

static void full_hold(void)
{
	send_buffer = 200000;
	quiet_hold();
	refill();
}

static void full_check(void)
{
	take_both(&pair);
	exchange(&pair);
	/* The receiver's buffer has grown meanwhile. */
	unmake(&pair);
	make(&pair);
	refill();
}

static void small_hold(void)
{
	listener = listen_at("0.0.0.0", PORT);
	set(listener, SOL_SOCKET, SO_RCVBUF, 4096);
	make(&pair);
	set(pair.client, SOL_SOCKET, SO_SNDBUF, 100000);
	refill();
}

static void corked_hold(void)
{
	quiet_hold();
	set(pair.client, SOL_TCP, TCP_CORK, 1);
	put(pair.client, &pair.to_server, 3);
}

static void corked_check(void)
{
	int corked = 0;
	socklen_t size = sizeof corked;

	if (getsockopt(pair.client, SOL_TCP, TCP_CORK, &corked, &size) || !corked)
		fail("is not corked");
	take_both(&pair);
	put(pair.client, &pair.to_server, 3);
}

static void shut(size_t size)
{
	put(pair.server, &pair.to_client, 7);
	put(pair.client, &pair.to_server, size);
	had(shutdown(pair.client, SHUT_WR), "shutdown");
}

static void shut_check(size_t size)
{
	if (write(pair.client, "x", 1) >= 0 || errno != EPIPE)
		fail("can be written to after shutdown");
	take(pair.server, &pair.to_server, CLOSED);
	put(pair.server, &pair.to_client, 1000);
	take(pair.client, &pair.to_client, OPEN);
	unmake(&pair);
	make(&pair);
	shut(size);
}

static void half_hold(void)
{
	quiet_hold();
	shut(5000);
}

static void half_check(void)
{
	shut_check(5000);
}

static void half_full_hold(void)
{
	send_buffer = 200000;
	quiet_hold();
	shut(SIZE_MAX >> 1);
}

static void half_full_check(void)
{
	shut_check(SIZE_MAX >> 1);
}

static void say_last_words(size_t size)
{
	put(pair.client, &pair.to_server, size);
	close(pair.client);
}

static void last_words_check_of(size_t size)
{
	take(pair.server, &pair.to_server, CLOSED);
	close(pair.server);
	make(&pair);
	say_last_words(size);
}

static void last_words_hold(void)
{
	quiet_hold();
	say_last_words(1000);
}

static void last_words_check(void)
{
	last_words_check_of(1000);
}

static void last_words_full_hold(void)
{
	send_buffer = 200000;
	quiet_hold();
	say_last_words(SIZE_MAX >> 1);
}

static void last_words_full_check(void)
{
	last_words_check_of(SIZE_MAX >> 1);
}

/* As an HTTP client that has no more to ask: the answer is there, and nothing else of the connection. */
static void last_words_shut_hold(void)
{
	quiet_hold();
	say_last_words(1000);
	had(shutdown(pair.server, SHUT_WR), "shutdown");
}

static void last_words_shut_check(void)
{
	last_words_check_of(1000);
	had(shutdown(pair.server, SHUT_WR), "shutdown");
}

static void waiting_hold(void)
{
	listener = listen_at("0.0.0.0", PORT);
	pair.client = connect_to(server_ip, 0);
	had(fcntl(pair.client, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
}

static void waiting_check(void)
{
	fcntl(listener, F_SETFL, O_NONBLOCK);
	pair.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (pair.server < 0)
		return fail("nobody waits: %s", strerror(errno));
	exchange(&pair);
	unmake(&pair);
	pair = (struct connection){ .client = connect_to(server_ip, 0) };
	had(fcntl(pair.client, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
}

static void no_listener_hold(void)
{
	unread_hold();
	close(listener);
}

static void ipv6_hold(void)
{
	server_ip = client_ip = "::1";
	listener = listen_at("::", PORT);
	make(&pair);
	refill_unread();
}

static void ipv6_only_hold(void)
{
	struct sockaddr_storage addr;
	socklen_t size = at(&addr, "::", PORT);

	server_ip = client_ip = "::1";
	listener = had(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	set(listener, SOL_IPV6, IPV6_V6ONLY, 1);
	had(bind(listener, (void *)&addr, size), "bind");
	had(listen(listener, 8), "listen");
	make(&pair);
	refill_unread();
}

static void mapped_hold(void)
{
	listener = listen_at("::", PORT);
	make(&pair);
	refill_unread();
}

static void mapped_client_hold(void)
{
	server_ip = client_ip = "::ffff:127.0.0.1";
	quiet_hold();
	refill_unread();
}

static void addresses_hold(void)
{
	server_ip = "127.0.0.2";
	client_ip = "127.0.0.3";
	listener = listen_at(server_ip, PORT);
	make(&pair);
	refill_unread();
}

static void check_address(int fd, int peers, const char *ip, int port)
{
	struct sockaddr_storage want, got = {};
	socklen_t size = sizeof got, wanted = at(&want, ip, port);

	if ((peers ? getpeername : getsockname)(fd, (void *)&got, &size) || size != wanted || memcmp(&got, &want, size))
		fail("does not have the address %s port %d", ip, port);
}

static void addresses_check(void)
{
	check_address(pair.server, 0, server_ip, PORT);
	check_address(pair.client, 1, server_ip, PORT);
	unread_check();
}

/* Two connections from one port. */
static void one_port_hold(void)
{
	int second = listen_at("127.0.0.2", PORT);

	listener = listen_at("127.0.0.1", PORT);
	pair.client = connect_to("127.0.0.1", 7002);
	twin.client = connect_to("127.0.0.2", 7002);
	pair.server = had(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), "accept");
	twin.server = had(accept4(second, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), "accept");
	had(fcntl(pair.client, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
	had(fcntl(twin.client, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
}

static void one_port_check(void)
{
	check_address(pair.client, 0, "127.0.0.1", 7002);
	check_address(twin.client, 0, "127.0.0.1", 7002);
	check_address(twin.server, 1, "127.0.0.1", 7002);
	exchange(&pair);
	exchange(&twin);
}

static void send_back(int fd)
{
	char block[100];
	ssize_t n;

	had(fcntl(fd, F_SETFL, 0), "blocking");
	while ((n = read(fd, block, sizeof block)) > 0)
		if (write(fd, block, n) != n)
			break;
	fail("the child's end has ended: %s", strerror(errno));
}

/* The other end is a child's, which waits in read(2). */
static void child_hold(void)
{
	listener = listen_at("0.0.0.0", PORT);
	make(&pair);
	fork_child(send_back, pair.client);
	close(pair.client);
}

static void child_check(void)
{
	put(pair.server, &pair.to_server, 50);
	pair.to_client.sent = pair.to_server.sent;
	take(pair.server, &pair.to_client, OPEN);
}

/* Two children, one of which never stops to write, and the other never to read: blocked most of the time. */
static void write_for_ever(int fd)
{
	static struct flow flow;

	had(fcntl(fd, F_SETFL, 0), "blocking");
	for (unsigned seed = 1;; beats[0]++)
		put(fd, &flow, rand_r(&seed) % BLOCK);
}

static void read_for_ever(int fd)
{
	static struct flow flow;
	char block[BLOCK];
	ssize_t n;

	had(fcntl(fd, F_SETFL, 0), "blocking");
	for (unsigned seed = 2;; beats[1]++) {
		n = read(fd, block, 1 + rand_r(&seed) % BLOCK);
		if (n <= 0 || !right(block, n, &flow))
			fail("the stream breaks at %lu: %s", (long)flow.got, n < 0 ? strerror(errno) : "");
		if (rand_r(&seed) % 64 == 0)
			nap();
	}
}

static void stream_hold(void)
{
	listener = listen_at("0.0.0.0", PORT);
	set(listener, SOL_SOCKET, SO_RCVBUF, 200000);
	send_buffer = 200000;
	make(&pair);
	fork_child(write_for_ever, pair.client);
	fork_child(read_for_ever, pair.server);
	unmake(&pair);
}

static void stream_check(void)
{
	await_beats(2);
}

static int carrier[2];

static void send_away(int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = {};
	struct iovec byte = { "x", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	struct cmsghdr *part = CMSG_FIRSTHDR(&message);

	part->cmsg_level = SOL_SOCKET;
	part->cmsg_type = SCM_RIGHTS;
	part->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(part), &fd, sizeof fd);
	had(sendmsg(carrier[0], &message, 0), "sendmsg");
	close(fd);
}

static int fetch(void)
{
	char space[CMSG_SPACE(sizeof(int))], x;
	struct iovec byte = { &x, 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	int fd = -1;

	if (recvmsg(carrier[1], &message, MSG_DONTWAIT) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

static void in_flight_hold(void)
{
	unread_hold();
	had(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, carrier), "socketpair");
	send_away(pair.client);
}

static void in_flight_check(void)
{
	pair.client = fetch();
	if (pair.client < 0)
		return fail("the descriptor in flight is lost");
	unread_check();
	send_away(pair.client);
}

enum { BUF_LOCK = 72 }; /* newer than the headers: sizes that are set are locked */

static const struct option {
	int level, name, value;
} options[] = {
	{ SOL_SOCKET, SO_KEEPALIVE, 1 }, { SOL_SOCKET, SO_RCVLOWAT, 3 },  { SOL_SOCKET, SO_RCVBUF, 50000 },
	{ SOL_SOCKET, SO_SNDBUF, 40000 }, { SOL_SOCKET, SO_OOBINLINE, 1 }, { SOL_SOCKET, SO_REUSEADDR, 0 },
	{ SOL_TCP, TCP_NODELAY, 1 },	 { SOL_TCP, TCP_KEEPIDLE, 77 },	  { IPPROTO_IP, IP_TOS, 16 },
	{ SOL_SOCKET, BUF_LOCK, 3 },
};

static int option(int fd, const struct option *o)
{
	int value = -1;
	socklen_t size = sizeof value;

	getsockopt(fd, o->level, o->name, &value, &size);
	/* The kernel doubles sizes. */
	return o->name == SO_RCVBUF || o->name == SO_SNDBUF ? value / 2 : value;
}

/* Set at the server's end, and at the client's left as they are. */
static void options_hold(void)
{
	quiet_hold();
	for (size_t i = 0; i < sizeof options / sizeof *options; i++)
		set(pair.server, options[i].level, options[i].name, options[i].value);
	refill_unread();
}

static void options_check(void)
{
	for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
		const struct option *o = &options[i];

		if (option(pair.server, o) != o->value)
			fail("option %d:%d is %d, was %d", o->level, o->name, option(pair.server, o), o->value);
		if (o->value && option(pair.client, o) == o->value)
			fail("option %d:%d of the other end has changed", o->level, o->name);
	}
	if (option(pair.client, &(struct option){ SOL_SOCKET, SO_REUSEADDR, 1 }) != 1)
		fail("SO_REUSEADDR is lost");
	if (option(listener, &(struct option){ SOL_SOCKET, SO_REUSEPORT, 0 }) ||
	    option(pair.server, &(struct option){ SOL_SOCKET, SO_REUSEPORT, 0 }))
		fail("has SO_REUSEPORT");
	unread_check();
}

static void many_hold(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	listener = listen_at("0.0.0.0", PORT);
	for (int i = 0; i < MANY; i++)
		make(&many[i]);
}

static void many_check(void)
{
	for (int i = 0; i < MANY; i++) {
		take_both(&many[i]);
		put(many[i].client, &many[i].to_server, i);
	}
}

/* Is closed by a restore. */
static int is_closed(int fd)
{
	char x;

	return recv(fd, &x, 1, MSG_DONTWAIT | MSG_PEEK) == 0 ||
	       (send(fd, "x", 1, MSG_DONTWAIT) < 0 && (errno == EPIPE || errno == ENOTCONN));
}

static void closed_check(void)
{
	say("closed=%d", is_closed(pair.client));
}

/* A client of a listener that isn't the service's, which has written nothing. */
static void neighbour_hold(void)
{
	pair.client = -1;
}

static void neighbour_check(void)
{
	char x;

	if (pair.client < 0)
		pair.client = connect_to(server_ip, 0);
	say("closed=%d", recv(pair.client, &x, 1, MSG_DONTWAIT) == 0 || errno != EAGAIN);
}

/* A child has the other ends of connections, pipes and socketpairs: more than fit into what a restore hands over by. */
enum { SHARED = 100 };
static int pipes[SHARED][2], local[SHARED][2];

static void many_shared_hold(void)
{
	listener = listen_at("0.0.0.0", PORT);
	for (int i = 0; i < SHARED; i++) {
		make(&many[i]);
		had(pipe(pipes[i]), "pipe");
		had(socketpair(AF_UNIX, SOCK_STREAM, 0, local[i]), "socketpair");
	}
	if (!had(fork(), "fork")) {
		for (int i = 0; i < SHARED; i++) {
			close(many[i].server);
			close(pipes[i][i % 2]);
			close(local[i][0]);
		}
		for (;;)
			pause();
	}
	for (int i = 0; i < SHARED; i++) {
		close(many[i].client);
		close(pipes[i][!(i % 2)]);
		close(local[i][1]);
	}
}

static void many_shared_check(void)
{
	for (int i = 0; i < SHARED; i++)
		if (fcntl(many[i].server, F_GETFD) < 0 || write(many[i].server, "x", 1) != 1)
			fail("connection %d is closed: %s", i, strerror(errno));
}

static void urgent_hold(void)
{
	unread_hold();
	had(send(pair.client, "!", 1, MSG_OOB), "MSG_OOB");
}

/* A socket that is connected to itself. */
static void self_hold(void)
{
	pair.client = connect_to("127.0.0.1", PORT);
}

static void waiting_data_hold(void)
{
	waiting_hold();
	put(pair.client, &pair.to_server, 1);
}

const struct object tcp_objects[] = {
	{ "tcp-quiet", quiet_hold, quiet_check },
	{ "tcp-unread", unread_hold, unread_check },
	{ "tcp-full", full_hold, full_check },
	{ "tcp-small", small_hold, full_check },
	{ "tcp-corked", corked_hold, corked_check },
	{ "tcp-shut", half_hold, half_check },
	{ "tcp-shut-full", half_full_hold, half_full_check },
	{ "tcp-last-words", last_words_hold, last_words_check },
	{ "tcp-last-words-full", last_words_full_hold, last_words_full_check },
	{ "tcp-last-words-shut", last_words_shut_hold, last_words_shut_check },
	{ "tcp-waiting", waiting_hold, waiting_check },
	{ "tcp-no-listener", no_listener_hold, unread_check },
	{ "tcp-ipv6", ipv6_hold, unread_check },
	{ "tcp-ipv6-only", ipv6_only_hold, unread_check },
	{ "tcp-mapped", mapped_hold, unread_check },
	{ "tcp-mapped-client", mapped_client_hold, unread_check },
	{ "tcp-addresses", addresses_hold, addresses_check },
	{ "tcp-one-port", one_port_hold, one_port_check },
	{ "tcp-child", child_hold, child_check },
	{ "tcp-stream", stream_hold, stream_check },
	{ "tcp-in-flight", in_flight_hold, in_flight_check },
	{ "tcp-options", options_hold, options_check },
	{ "tcp-many", many_hold, many_check },
	{ "tcp-neighbour", neighbour_hold, neighbour_check },
	{ "tcp-many-shared", many_shared_hold, many_shared_check },
	{ "tcp-urgent", urgent_hold, closed_check },
	{ "tcp-self", self_hold, closed_check },
	{ "tcp-waiting-data", waiting_data_hold, closed_check },
	{},
};
