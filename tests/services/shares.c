/*
 * shares.c - the shape whose processes share with each other what they can: tables of descriptors, and open files.
 *
 * shares [FLAG...]: 30 processes in a tree. Some have the table of their parent (CLONE_FILES). Each open file is of the same
 * file: N of the first process, which all have by fork, and one that each has opened and sent to the first
 * (SCM_RIGHTS). With flags of clone(2), such as VM or FS, process 17 has one more child, by clone with these.
 */
#include "service.h"
#include <sched.h>
#include <sys/socket.h>

enum { N = 30, CLONER = 17, FIRST = 100, OWN = 200, RECEIVED = 300, MARK = 600 };

/* Who has the table of its parent: a chain, brothers, and leaves. */
static const int with_parents_table[] = { 1, 3, 4, 7, 8, 12, 13, 26, 28 };

static struct {
	atomic_int turn, done; /* number of a process, and 1 */
	pid_t pid[N], more;
} *common;
static int table[N], ends[2], more_flags;
static char stack[65536];

static int has_parents_table(int number)
{
	for (size_t i = 0; i < sizeof with_parents_table / sizeof *with_parents_table; i++)
		if (with_parents_table[i] == number)
			return 1;
	return 0;
}

static int open_at(int number)
{
	int fd = open("/proc/self/exe", O_RDONLY);

	if (fd < 0 || dup2(fd, number) < 0 || close(fd))
		cannot("/proc/self/exe");
	return number;
}

static void send_to_first(int fd, char number)
{
	char space[CMSG_SPACE(sizeof fd)] = "";
	struct iovec iov = { &number, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd) };
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	if (sendmsg(ends[1], &m, 0) != 1)
		cannot("sending a descriptor");
}

static void receive_one(void)
{
	char space[CMSG_SPACE(sizeof(int))], number;
	struct iovec iov = { &number, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	int fd;

	if (recvmsg(ends[0], &m, 0) != 1 || !CMSG_FIRSTHDR(&m))
		cannot("receiving a descriptor");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
	if (dup2(fd, RECEIVED + number) < 0 || close(fd))
		cannot("a received descriptor");
}

/* In its turn a process has one more descriptor, and moves its open files. */
static void take_turn(int number)
{
	dup2(2, MARK);
	lseek(FIRST + number, 1000 + number, SEEK_SET);
	lseek(OWN + number, 2000 + number, SEEK_SET);
}

static void end_turn(int number)
{
	close(MARK);
	lseek(FIRST + number, 0, SEEK_SET);
	lseek(OWN + number, 0, SEEK_SET);
}

static int idle_for_ever(void *arg)
{
	(void)arg;
	for (;;)
		nap();
	return 0;
}

static int live(void *arg);

static void begin_children(int number)
{
	static char more_stack[65536];

	for (int child = 2 * number + 1; child <= 2 * number + 2 && child < N; child++) {
		common->pid[child] = clone(live, stack + sizeof stack, SIGCHLD | (has_parents_table(child) ? CLONE_FILES : 0),
					   (void *)(intptr_t)child);
		if (common->pid[child] < 0)
			cannot("clone");
	}
	if (number == CLONER && more_flags)
		common->more = clone(idle_for_ever, more_stack + sizeof more_stack, more_flags | SIGCHLD, NULL);
}

static int live(void *arg)
{
	int number = (intptr_t)arg;

	send_to_first(open_at(OWN + number), number);
	begin_children(number);
	for (;; nap()) {
		beats[number - 1]++;
		if (common->turn != number + 1 || common->done)
			continue;
		take_turn(number);
		common->done = 1;
		while (common->done)
			nap();
		end_turn(number);
		common->turn = 0;
	}
	return 0;
}

static int flag_named(const char *name)
{
	static const struct {
		const char *name;
		int flag;
	} flags[] = { { "VM", CLONE_VM }, { "FS", CLONE_FS }, { "FILES", CLONE_FILES }, { "SIGHAND", CLONE_SIGHAND },
		      { "PARENT", CLONE_PARENT } };

	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
		if (!strcmp(flags[i].name, name))
			return flags[i].flag;
	errno = EINVAL;
	cannot("that flag");
}

static void shares_start(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		more_flags |= flag_named(argv[i]);
	common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (common == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends))
		cannot("shared memory or a socketpair");
	for (int i = 0; i < N; i++) {
		table[i] = has_parents_table(i) ? table[(i - 1) / 2] : i;
		open_at(FIRST + i);
	}
	common->pid[0] = getpid();
	open_at(OWN);
	dup2(OWN, RECEIVED);
	begin_children(0);
	for (int i = 1; i < N; i++)
		receive_one();
}

static long position(pid_t pid, int fd)
{
	char path[64], line[64] = "";
	long at = -1;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", pid, fd);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof line, f))
		sscanf(line, "pos: %ld", &at);
	if (f)
		fclose(f);
	return at;
}

static int is_open(pid_t pid, int fd)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
	return !access(path, F_OK);
}

/* It is the turn of process @number. */
static void check_turn(int number)
{
	int moved = 0;

	for (int i = 0; i < N; i++) {
		if (is_open(common->pid[i], MARK) != (table[i] == table[number]))
			fail("whether processes %d and %d share their descriptors has changed", i, number);
		if (position(common->pid[i], FIRST + number) != 1000 + number)
			fail("processes %d and %d do not share a file that they have by fork", i, number);
		moved += position(common->pid[0], FIRST + i) != 0;
		moved += lseek(RECEIVED + i, 0, SEEK_CUR) != 0;
	}
	if (lseek(RECEIVED + number, 0, SEEK_CUR) != 2000 + number)
		fail("the first process does not share the file that process %d has sent", number);
	if (moved != 2)
		fail("%d files are moved where process %d moves two", moved, number);
}

static void shares_verify(void)
{
	await_beats(N - 1);
	take_turn(0);
	check_turn(0);
	end_turn(0);
	for (int i = 1; i < N; i++) {
		common->turn = i + 1;
		while (!common->done)
			nap();
		check_turn(i);
		common->done = 0;
		while (common->turn)
			nap();
	}
	say("cloner=%d more=%d", common->pid[CLONER], common->more);
}

const struct shape shares = { "shares", "[FLAG...]", shares_start, NULL, shares_verify, NULL };
