/*
 * states.c - the shape that holds random kernel objects, and describes itself.
 *
 *   service states GROUP…     a process for each group: KIND.NUMBER+KIND.NUMBER…
 *   service states kinds      prints the names of all kinds, and exits
 *
 * The word "describe N" answers what the process of group N sees, in parts that a tab separates:
 * first the PIDs that the group has had, then a part for each fact. "drop N" ends the group.
 */
#include "states.h"
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

enum { GROUPS = 64, OBJECTS = 32, TEXT = 60000 };

static const struct kind *const lists[] = { event_kinds,   file_kinds, ipc_kinds,     memory_kinds, network_kinds,
					    pipe_kinds, process_kinds, signal_kinds, special_kinds, tree_kinds,   unix_kinds };
enum { LISTS = sizeof lists / sizeof *lists };

/* What the first process and that of the group share. */
static struct group {
	sem_t asked, answered;
	pid_t first, last;
	size_t used;
	char text[TEXT];
} *groups;
static char **specs;
static int count;

static struct object objects[OBJECTS];
static int held;
static struct group *mine;

unsigned draw(struct object *o, unsigned limit)
{
	uint64_t z = o->random += 0x9e3779b97f4a7c15; /* splitmix64 */

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (z ^ (z >> 31)) % limit;
}

bool toss(struct object *o)
{
	return draw(o, 2);
}

void fill(struct object *o, void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((unsigned char *)data)[i] = draw(o, 256);
}

const char *new_path(struct object *o, const char *suffix)
{
	snprintf(o->path, sizeof o->path, "%s/%s%s", toss(o) ? "/tmp" : "/dev/shm", o->name, suffix);
	return o->path;
}

void tell(struct object *o, const char *format, ...)
{
	va_list args;
	int n;

	n = snprintf(mine->text + mine->used, TEXT - mine->used, "\t%s.%u ", o->kind->name, o->number);
	mine->used += n;
	va_start(args, format);
	n = vsnprintf(mine->text + mine->used, TEXT - mine->used, format, args);
	va_end(args);
	mine->used += n;
	if (mine->used >= TEXT)
		abort();
}

void tell_bytes(struct object *o, const char *what, const void *data, ssize_t size)
{
	if (size < 0)
		tell(o, "%s: %s", what, strerror(errno));
	else
		tell(o, "%s: %zd bytes, %016lx", what, size, checksum(data, size));
}

/* What was sent and not read is in the queues of both ends, and a restore may divide it in another way. */
static bool is_connected_tcp(int fd)
{
	int protocol = 0;

	return !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &(socklen_t){ sizeof protocol }) &&
	       protocol == IPPROTO_TCP && !getpeername(fd, (struct sockaddr *)&(struct sockaddr_storage){ 0 },
						       &(socklen_t){ sizeof(struct sockaddr_storage) });
}

void tell_descriptors(struct object *o)
{
	for (int i = 0; i < o->fds; i++) {
		struct stat st = { 0 };
		int fd = o->fd[i], unread = 0;
		struct pollfd ready = { .fd = fd, .events = POLLIN | POLLPRI | POLLOUT | POLLRDHUP };

		if (fd < 0)
			continue;
		fstat(fd, &st);
		poll(&ready, 1, 0);
		if (S_ISSOCK(st.st_mode) || (S_ISFIFO(st.st_mode) && ready.revents & POLLERR))
			/* An error of a socket is told once. What is in a pipe without readers is not carried. */
			ready.revents &= ~(POLLERR | (S_ISFIFO(st.st_mode) ? POLLOUT : 0));
		/* Whether more fits depends on how the kernel has packed what the other end has not read yet. */
		if (S_ISSOCK(st.st_mode) && (is_connected_tcp(fd) || (!ioctl(fd, SIOCOUTQ, &unread) && unread)))
			ready.revents &= ~POLLOUT;
		tell(o, "fd %d: mode %o uid %d gid %d flags %o cloexec %d ready %x", fd, st.st_mode, st.st_uid,
		     st.st_gid, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD), ready.revents);
	}
}

int keep(struct object *o, int fd)
{
	int from = toss(o) ? 0 : draw(o, 900), error = errno, new;

	if (fd < 0 || o->fds == HELD) {
		errno = error;
		return -1;
	}
	new = fcntl(fd, toss(o) ? F_DUPFD_CLOEXEC : F_DUPFD, from);
	close(fd);
	return o->fd[o->fds++] = new;
}

static const struct kind *kind_of(const char *name, size_t length)
{
	for (int i = 0; i < LISTS; i++)
		for (const struct kind *k = lists[i]; k->name; k++)
			if (!strncmp(k->name, name, length) && !k->name[length])
				return k;
	errno = EINVAL;
	cannot(name);
}

static void make_objects(int n)
{
	char *spec = strdup(specs[n]), *rest = spec, *word;

	while ((word = strsep(&rest, "+")) && held < OBJECTS) {
		struct object *o = &objects[held++];

		o->kind = kind_of(word, strcspn(word, "."));
		o->number = atoi(word + strcspn(word, ".") + 1);
		o->random = o->number;
		snprintf(o->name, sizeof o->name, "state-%d-%d", n, held);
		memset(o->fd, -1, sizeof o->fd);
		if (o->kind->make(o) < 0)
			o->error = errno ? errno : EINVAL;
	}
	free(spec);
}

static void describe(void)
{
	mine->used = 0;
	for (int i = 0; i < held; i++)
		if (objects[i].error)
			tell(&objects[i], "absent: %s", strerror(objects[i].error));
		else
			objects[i].kind->tell(&objects[i]);
}

static void be_group(int n)
{
	mine = &groups[n];
	make_objects(n);
	for (;;) {
		sem_post(&mine->answered);
		while (sem_wait(&mine->asked))
			;
		describe();
	}
}

static int await_group(int n)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	while (sem_timedwait(&groups[n].answered, &until))
		if (errno != EINTR)
			return -1;
	return 0;
}

/* The processes of a group have consecutive PIDs, as nobody else makes any meanwhile. */
static pid_t last_pid(void)
{
	FILE *file = fopen("/proc/sys/kernel/ns_last_pid", "re");
	int pid = 0;

	if (!file || fscanf(file, "%d", &pid) != 1)
		cannot("the last PID");
	fclose(file);
	return pid;
}

static void states_start(int argc, char **argv)
{
	if (argc == 1 && !strcmp(argv[0], "kinds")) {
		for (int i = 0; i < LISTS; i++)
			for (const struct kind *k = lists[i]; k->name; k++)
				puts(k->name);
		exit(0);
	}
	groups = mmap(NULL, GROUPS * sizeof *groups, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (groups == MAP_FAILED || argc > GROUPS)
		cannot("so many groups");
	specs = argv;
	for (count = 0; count < argc; count++) {
		struct group *group = &groups[count];

		sem_init(&group->asked, 1, 0);
		sem_init(&group->answered, 1, 0);
		group->first = fork_child(be_group, count);
		if (await_group(count))
			cannot(specs[count]);
		group->last = last_pid();
	}
}

static void states_verify(void)
{
	say("groups=%d", count);
}

static void drop(struct group *group)
{
	for (pid_t pid = group->first; pid <= group->last; pid++)
		kill(pid, SIGKILL);
	waitpid(group->first, NULL, 0);
}

static int states_word(const char *word)
{
	int n = count;

	if (sscanf(word, "describe %d", &n) == 1 && n < count) {
		sem_post(&groups[n].asked);
		if (await_group(n))
			fail("group %d does not answer", n);
		say("%d-%d%s", groups[n].first, groups[n].last, groups[n].text);
	} else if (sscanf(word, "drop %d", &n) == 1 && n < count) {
		drop(&groups[n]);
	} else {
		return 0;
	}
	return 1;
}

const struct shape states = { "states", "GROUP...", states_start, NULL, states_verify, states_word };
