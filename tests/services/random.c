/*
 * random.c - random SEED: a tree of processes and threads in an order that the seed decides, with sessions, groups,
 * daemons, subreapers, zombies and numbers left out, each made before or after the others.
 */
#include "service.h"
#include <sys/prctl.h>

enum { MOST = 40, DEEPEST = 4, STEPS = 6 };

static struct {
	atomic_int made, living, all_made, ready[MOST + 1];
} *shared;

static unsigned state; /* of this process's own choices, so that they depend on no timing */

static unsigned choose(unsigned of)
{
	state = state * 1103515245 + 12345;
	return (state >> 16) % of;
}

/* Everything stays as it is from the moment on in which all is made. */
static void *live(void *unused)
{
	struct identity me;
	char who[32];
	int number;

	while (!shared->all_made)
		nap();
	number = shared->living++;
	me = identity();
	snprintf(who, sizeof who, "number %d", number);
	for (;; nap()) {
		check_identity(&me, who);
		beats[number]++;
	}
	return unused;
}

static void take_steps(int depth);

enum { STAYS, LEAVES };
static int its_depth, its_end;

static void be_child(int number)
{
	int end = its_end;

	state = state * 31 + number;
	take_steps(its_depth);
	if (end == LEAVES)
		_exit(3);
	shared->ready[number] = 1;
	live(NULL);
}

/* Returns when the child has made all that it makes; one that leaves has ended then, and is a zombie. */
static pid_t make_child(int depth, int end)
{
	int number = ++shared->made;
	siginfo_t info;
	pid_t pid;

	if (number > MOST)
		return 0;
	its_depth = depth + 1, its_end = end;
	pid = fork_child(be_child, number);
	if (end == LEAVES)
		waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
	while (end == STAYS && !shared->ready[number])
		nap();
	return pid;
}

static void take_steps(int depth)
{
	pid_t last = 0, left;

	for (int step = depth == 0 ? 0 : choose(3); step < STEPS && depth < DEEPEST; step++)
		switch (choose(10)) {
		case 0:
		case 1:
			last = make_child(depth, STAYS);
			break;
		case 2:
			small_thread(live, NULL);
			break;
		case 3:
			setsid();
			break;
		case 4:
			setpgid(0, 0);
			break;
		case 5:
			if (last && last != getsid(0))
				setpgid(0, last);
			break;
		case 6:
			if (last)
				setpgid(last, last);
			break;
		case 7:
			left = make_child(depth, LEAVES);
			if (left)
				waitpid(left, NULL, 0);
			break;
		case 8: /* a zombie */
			make_child(depth, LEAVES);
			break;
		case 9:
			if (choose(4) == 0)
				prctl(PR_SET_CHILD_SUBREAPER, 1);
			break;
		}
}

static void random_start(int argc, char **argv)
{
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		cannot("mmap");
	state = argc > 0 ? atoi(argv[0]) * 2654435761u : 0;
	take_steps(0);
	shared->all_made = 1;
}

static void random_verify(void)
{
	await_beats(shared->living);
	say("living=%d", shared->living);
}

const struct shape random_shape = { "random", "SEED", random_start, NULL, random_verify, NULL };
