/*
 * service - plays the services that the tests freeze and restore.
 *
 *   service SHAPE [ARGUMENT...]   be one; `service` alone lists the shapes
 *   service ask PORT WORD...      ask one, once it listens: prints the answer; exits 0 if that
 *                                 begins with "ok"
 *   service signal PID N          send it SIGRTMIN N times, with the values 0 to N-1, 200 us apart
 *
 * It answers one line to one line on 127.0.0.1, port $PORT or 7000:
 *
 *   verify       "ok pid=N ticks=N ..." or "error WHAT": checks everything first
 *   exit STATUS  answers, then exits
 *   die SIGNAL   answers, then kills itself by that signal
 *
 * A shape never restarts, repairs or retries anything: what a restore loses stays lost and shows.
 */
#include "service.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <time.h>

#ifdef CLOCKS_ALONE /* for C libraries without what other shapes need */
static const struct shape *const shapes[] = { &clock_shape, &clock_waits };
#else
static const struct shape *const shapes[] = { &one,	 &prefork, &daemon_shape, &sessions, &threads, &mixed,
					      &files, &big,	   &signals,	  &sysv,     &iouring,
					      &holds, &random_shape, &clock_shape, &clock_waits, &sockets, &waits, &timers_shape, &attributes, &reads, &states, &registers, &writers, &calm, &changes };
#endif
enum { SHAPES = sizeof shapes / sizeof *shapes, CANNOT = 77 };

atomic_long *beats;
static struct {
	atomic_int failed;
	char text[256];
} *failure;
static char answer[65536];
static long ticks;
static int listener;

void say(const char *format, ...)
{
	size_t used = strlen(answer);
	va_list args;

	va_start(args, format);
	if (used + 1 < sizeof answer) {
		answer[used++] = ' ';
		vsnprintf(answer + used, sizeof answer - used, format, args);
	}
	va_end(args);
}

void fail(const char *format, ...)
{
	va_list args;

	if (atomic_fetch_add(&failure->failed, 1))
		return;
	va_start(args, format);
	vsnprintf(failure->text, sizeof failure->text, format, args);
	va_end(args);
}

void cannot(const char *what)
{
	fprintf(stderr, "service: %s: %s\n", what, strerror(errno));
	exit(CANNOT);
}

pthread_t small_thread(void *(*body)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	errno = pthread_create(&thread, &attr, body, arg);
	if (errno)
		cannot("pthread_create");
	return thread;
}

void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

void await_beats(int n)
{
	long before[MAX_BEATS];
	int tries = 500, i;

	for (i = 0; i < n; i++)
		before[i] = beats[i];
	for (i = 0; i < n;)
		if (beats[i] >= before[i] + 2)
			i++;
		else if (tries-- > 0)
			nap();
		else
			return fail("number %d stands still at %ld", i, before[i]);
}

struct identity identity(void)
{
	return (struct identity){ getpid(), getppid(), getsid(0), getpgid(0), gettid() };
}

void check_identity(const struct identity *before, const char *who)
{
	struct identity now = identity();

	if (memcmp(&now, before, sizeof now))
		fail("%s: pid ppid sid pgid tid were %d %d %d %d %d, are %d %d %d %d %d", who, before->pid,
		     before->ppid, before->sid, before->pgid, before->tid, now.pid, now.ppid, now.sid, now.pgid,
		     now.tid);
}

pid_t fork_child(void (*body)(int), int arg)
{
	pid_t pid = fork();

	if (pid < 0)
		cannot("fork");
	if (pid)
		return pid;
	close(listener);
	body(arg);
	_exit(0);
}

void unmap_all(const char *name)
{
	FILE *f = fopen("/proc/self/maps", "re");
	uintptr_t from[8], to[8];
	char line[512];
	int n = 0;

	while (n < 8 && fgets(line, sizeof line, f))
		n += strstr(line, name) && sscanf(line, "%lx-%lx", &from[n], &to[n]) == 2;
	fclose(f);
	while (n-- > 0)
		if (munmap((void *)from[n], to[n] - from[n]))
			cannot("munmap");
}

uint64_t checksum(const void *data, size_t size)
{
	const unsigned char *p = data;
	uint64_t sum = 14695981039346656037U; /* FNV-1a */

	while (size--)
		sum = (sum ^ *p++) * 1099511628211U;
	return sum;
}

static struct sockaddr_in address(const char *port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons(atoi(port)),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int listen_on(const char *port)
{
	struct sockaddr_in addr = address(port);
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
	if (sock < 0 || bind(sock, (void *)&addr, sizeof addr) || listen(sock, 16))
		cannot("listening");
	return sock;
}

static void reply(int conn, const char *line)
{
	dprintf(conn, "%s\n", line);
	shutdown(conn, SHUT_WR);
	close(conn);
}

static void respond(int conn, const struct shape *shape)
{
	char word[64] = "";
	ssize_t n = read(conn, word, sizeof word - 1);
	int number = 0;

	word[n > 0 ? n : 0] = 0;
	word[strcspn(word, "\n")] = 0;
	strcpy(answer, "ok");
	if (sscanf(word, "exit %d", &number) == 1) {
		reply(conn, answer);
		exit(number);
	}
	if (sscanf(word, "die %d", &number) == 1) {
		reply(conn, answer);
		signal(number, SIG_DFL);
		raise(number);
		return;
	}
	if (!strcmp(word, "verify")) {
		say("pid=%d ticks=%ld", getpid(), ticks);
		shape->verify();
	} else if (!shape->word || !shape->word(word)) {
		return reply(conn, "error this is no word of mine");
	}
	if (failure->failed)
		snprintf(answer, sizeof answer, "error %s", failure->text);
	reply(conn, answer);
}

/* One loop for every shape: ticks, and answers in between. */
static void serve(const struct shape *shape)
{
	struct identity me = identity();

	for (;;) {
		struct pollfd p = { .fd = listener, .events = POLLIN };
		int n = poll(&p, 1, 10);
		int conn = n > 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;

		ticks++;
		if (shape->tick)
			shape->tick();
		check_identity(&me, "the first process");
		if (conn >= 0)
			respond(conn, shape);
	}
}

/* Connects, if need be after a while: at its start a service does not listen yet. */
static int connect_to(const char *port)
{
	struct sockaddr_in addr = address(port);

	for (int tries = 0; tries < 500; tries++) {
		int sock = socket(AF_INET, SOCK_STREAM, 0);

		if (!connect(sock, (void *)&addr, sizeof addr))
			return sock;
		close(sock);
		nap();
	}
	return -1;
}

static int ask(const char *port, char **words)
{
	int sock = connect_to(port);
	char line[4097] = "";
	size_t used = 0;
	ssize_t n;

	if (sock < 0) {
		printf("error nobody listens on port %s\n", port);
		return 1;
	}
	for (; *words; words++)
		used += snprintf(line + used, sizeof line - used, "%s%s", *words, words[1] ? " " : "\n");
	if (write(sock, line, used) < 0)
		perror("service: write");
	for (used = 0; (n = read(sock, line + used, sizeof line - 1 - used)) > 0; used += n)
		;
	line[used] = 0;
	fputs(used ? line : "error no answer\n", stdout);
	return strncmp(line, "ok", 2) != 0;
}

static int send_signals(pid_t to, int n)
{
	for (int i = 0; i < n; i++) {
		if (sigqueue(to, SIGRTMIN, (union sigval){ .sival_int = i }))
			cannot("sigqueue");
		nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *port = getenv("PORT");

	if (argc >= 4 && !strcmp(argv[1], "ask"))
		return ask(argv[2], argv + 3);
	if (argc == 4 && !strcmp(argv[1], "signal"))
		return send_signals(atoi(argv[2]), atoi(argv[3]));
	signal(SIGPIPE, SIG_IGN);
	beats = mmap(NULL, MAX_BEATS * sizeof *beats, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	failure = mmap(NULL, sizeof *failure, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (beats == MAP_FAILED || failure == MAP_FAILED)
		cannot("mmap");
	for (int i = 0; i < SHAPES; i++)
		if (argc >= 2 && !strcmp(argv[1], shapes[i]->name)) {
			listener = listen_on(port ? port : "7000");
			shapes[i]->start(argc - 2, argv + 2);
			serve(shapes[i]);
		}
	for (int i = 0; i < SHAPES; i++)
		fprintf(stderr, "service %s %s\n", shapes[i]->name, shapes[i]->arguments);
	return 2;
}
