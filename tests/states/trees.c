/* trees.c - trees of processes, what their members share, and what they wait for. */
#include "states.h"
#include <pthread.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

static void stay(void)
{
	for (;;)
		pause();
}

/* What the members of a tree and the process that makes it share, so that it knows when the tree is whole. */
struct tree {
	struct object *o;
	int done; /* closed by each member that is ready */
};

static void be_member(struct tree *tree, int depth);

/* fork(), perhaps with another signal at its end, or as a child of the caller's parent. */
static pid_t fork_somehow(struct object *o)
{
	/* A child that nobody waits for by wait(2) without __WALL, or that has its parent's parent. */
	return syscall(SYS_clone, PICK(o, SIGCHLD, SIGCHLD, SIGCHLD, SIGUSR2, 0), 0, 0, 0, 0);
}

static int grow(struct tree *tree, int depth)
{
	for (int i = draw(tree->o, depth ? 3 : 4); i > 0; i--) {
		pid_t pid = fork_somehow(tree->o);

		if (pid < 0)
			return -1;
		if (!pid)
			be_member(tree, depth + 1);
		/* Each in turn: so that the order of the PIDs is that of the seed. */
		struct timespec moment = { .tv_nsec = 2000000 };
		nanosleep(&moment, NULL);
		draw(tree->o, 2);
	}
	return 0;
}

/* Leads a session or a group, or neither; has children; then stays, stops, or ends before them. */
static void be_member(struct tree *tree, int depth)
{
	signal(SIGUSR2, SIG_IGN);
	switch (draw(tree->o, 5)) {
	case 0: setsid(); break;
	case 1: setpgid(0, 0); break;
	}
	if (depth < 3 && grow(tree, depth))
		_exit(1);
	if (!draw(tree->o, 4))
		_exit(draw(tree->o, 100));
	if (!draw(tree->o, 4)) {
		close(tree->done);
		raise(SIGSTOP);
	}
	close(tree->done);
	stay();
}

static int make_tree(struct object *o)
{
	struct tree tree = { .o = o };
	int pipe[2];
	char byte;

	signal(SIGUSR2, SIG_IGN);
	if (pipe2(pipe, O_CLOEXEC))
		return -1;
	tree.done = pipe[1];
	if (grow(&tree, 0))
		return -1;
	close(pipe[1]);
	if (read(pipe[0], &byte, 1) < 0) /* until all have closed it */
		return -1;
	close(pipe[0]);
	for (int i = 0; i < 3; i++) /* until those that stop have stopped, and those that end have ended */
		nap();
	return 0;
}

/* Parent and child have the same file open, or memory mapped. Each sees what the other does. */
struct shared {
	sem_t asked, answered;
	long offset, flags;
};

static int be_sharer(void *object)
{
	struct object *o = object;
	struct shared *shared = (void *)o->memory;

	for (;;) {
		while (sem_wait(&shared->asked))
			;
		shared->offset = lseek(o->fd[0], 0, SEEK_CUR);
		shared->flags = fcntl(o->fd[0], F_GETFL);
		sem_post(&shared->answered);
	}
	return 0;
}

static int make_shared(struct object *o)
{
	static char stack[65536];
	bool one_table = toss(o);
	struct shared *shared;

	o->memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (o->memory == MAP_FAILED)
		return -1;
	shared = (void *)o->memory;
	sem_init(&shared->asked, 1, 0);
	sem_init(&shared->answered, 1, 0);
	if (keep(o, open("/etc/passwd", O_RDONLY)) < 0)
		return -1;
	o->pid[0] = clone(be_sharer, stack + sizeof stack, SIGCHLD | (one_table ? CLONE_FILES : 0), o);
	return o->pid[0];
}

static void tell_shared(struct object *o)
{
	struct shared *shared = (void *)o->memory;
	long offset = lseek(o->fd[0], 0, SEEK_CUR);
	struct timespec until;

	lseek(o->fd[0], 7, SEEK_SET);
	fcntl(o->fd[0], F_SETFL, O_APPEND);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	sem_post(&shared->asked);
	if (sem_timedwait(&shared->answered, &until))
		tell(o, "the child does not answer");
	tell(o, "at %ld the child has offset %ld, flags %lo", offset, shared->offset, shared->flags);
	lseek(o->fd[0], offset, SEEK_SET);
	fcntl(o->fd[0], F_SETFL, 0);
	tell_descriptors(o);
}

/* A thread that waits, for ever or for hours. What it waits in is in /proc/PID/syscall. */
static void *wait_somehow(void *object)
{
	struct object *o = object;
	struct timespec hours = { .tv_sec = 10000 };
	struct pollfd both[] = { { o->fd[0], POLLIN, 0 }, { o->fd[1], POLLOUT, 0 } };
	struct epoll_event event;
	sigset_t all, power;
	fd_set set;
	char byte;
	int word = 0;

	sigfillset(&all); /* what is pending for the process is none of its business */
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	FD_ZERO(&set);
	sigemptyset(&power);
	sigaddset(&power, SIGPWR);
	for (;;)
		switch (o->note[0]) {
		case 0: read(o->fd[0], &byte, 1); break;
		case 1: nanosleep(&hours, NULL); break;
		case 2: clock_nanosleep(CLOCK_MONOTONIC, 0, &hours, NULL); break;
		case 3: poll(both, 1, o->note[1] ? -1 : 10000000); break;
		case 4: ppoll(both, 1, &hours, NULL); break;
		case 5: syscall(SYS_futex, &word, 128 /* private */, 0, NULL, NULL, 0); break;
		case 6: syscall(SYS_futex, &word, 128, 0, &hours, NULL, 0); break;
		case 7: epoll_wait(o->fd[2], &event, 1, -1); break;
		case 8: epoll_pwait(o->fd[2], &event, 1, 10000000, &all); break;
		case 9: select(0, &set, NULL, NULL, NULL); break;
		case 10: sigtimedwait(&power, NULL, &hours); break;
		case 11: sigwaitinfo(&power, NULL); break;
		case 12: recv(o->fd[3], &byte, 1, 0); break;
		case 13: pselect(0, &set, NULL, NULL, &hours, NULL); break;
		}
	return NULL;
}

static int make_wait(struct object *o)
{
	struct epoll_event event = { .events = EPOLLIN };
	int ends[2], pair[2];
	pthread_t thread;

	o->note[0] = draw(o, 14);
	o->note[1] = toss(o);
	if (pipe2(ends, O_CLOEXEC) || keep(o, ends[0]) < 0 || keep(o, ends[1]) < 0 ||
	    keep(o, epoll_create1(EPOLL_CLOEXEC)) < 0 || epoll_ctl(o->fd[2], EPOLL_CTL_ADD, o->fd[0], &event))
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) || keep(o, pair[0]) < 0 || keep(o, pair[1]) < 0)
		return -1;
	errno = pthread_create(&thread, NULL, wait_somehow, o);
	nap();
	return errno ? -1 : 0;
}

/* What there is to see is in /proc. */
static void tell_nothing(struct object *o)
{
	tell(o, "is there");
}

const struct kind tree_kinds[] = {
	{ "tree", make_tree, tell_nothing },
	{ "shared", make_shared, tell_shared },
	{ "wait", make_wait, tell_descriptors },
	{ NULL, NULL, NULL },
};
