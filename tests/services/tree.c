/* tree.c - shapes of several processes: prefork, daemon, sessions. */
#include "service.h"
#include <sys/socket.h>

/* The loop of a process that only lives: it checks who it is and counts. */
static void live(int number)
{
	struct identity me = identity();
	char who[32];

	snprintf(who, sizeof who, "process %d", number);
	for (;; nap()) {
		check_identity(&me, who);
		beats[number]++;
	}
}

static int next_beat; /* number of the next process */

/*
 * prefork: N processes, N - 1 of them in a ring of pipes and socketpairs in which
 * numbered messages go round, several at once, so that some are always in a buffer.
 */

enum { WINDOW = 8, MAX_RING = MAX_BEATS };
struct message {
	uint64_t number, filling[6], sum;
};
static int ring_size, links[MAX_RING][2]; /* link i leads to process i: read and write end */

static void ring_send(int fd, uint64_t number)
{
	struct message m = { .number = number };

	for (int i = 0; i < 6; i++)
		m.filling[i] = number * (i + 3);
	m.sum = checksum(&m, offsetof(struct message, sum));
	if (write(fd, &m, sizeof m) != sizeof m)
		fail("message %lu could not be sent: %s", number, strerror(errno));
}

static void ring_receive(int fd, uint64_t expected, int who)
{
	struct message m;
	size_t done = 0;
	ssize_t n;

	for (; done < sizeof m; done += n)
		if ((n = read(fd, (char *)&m + done, sizeof m - done)) <= 0) {
			fail("process %d lost its neighbour", who);
			_exit(1);
		}
	if (m.sum != checksum(&m, offsetof(struct message, sum)))
		fail("process %d received a damaged message", who);
	else if (m.number != expected)
		fail("process %d received message %lu instead of %lu", who, m.number, expected);
}

/* Number 0 keeps WINDOW messages on their way; the others pass them on. */
static void ring_member(int number)
{
	int in = links[number][0], out = links[(number + 1) % ring_size][1];
	struct identity me = identity();
	uint64_t expected = 1;

	for (int i = 0; i < ring_size; i++)
		for (int end = 0; end < 2; end++)
			if (links[i][end] != in && links[i][end] != out)
				close(links[i][end]);
	for (int i = 1; number == 0 && i <= WINDOW; i++)
		ring_send(out, i);
	for (;; expected++) {
		ring_receive(in, expected, number);
		if (number == 0)
			nap();
		ring_send(out, number == 0 ? expected + WINDOW : expected);
		check_identity(&me, "a process of the ring");
		beats[number]++;
	}
}

static void prefork_start(int argc, char **argv)
{
	ring_size = (argc > 0 ? atoi(argv[0]) : 16) - 1;
	if (ring_size < 1 || ring_size > MAX_RING) {
		errno = EINVAL;
		cannot("the number of processes");
	}
	for (int i = 0; i < ring_size; i++)
		if (i % 2 ? socketpair(AF_UNIX, SOCK_STREAM, 0, links[i]) : pipe(links[i]))
			cannot("pipe or socketpair");
	for (int i = 0; i < ring_size; i++)
		fork_child(ring_member, i);
	for (int i = 0; i < ring_size; i++)
		close(links[i][0]), close(links[i][1]);
}

static void prefork_verify(void)
{
	await_beats(ring_size);
	say("processes=%d messages=%ld", ring_size + 1, beats[0]);
	if (waitpid(-1, NULL, WNOHANG) != 0)
		fail("a process of the ring has ended");
}

const struct shape prefork = { "prefork", "N", prefork_start, NULL, prefork_verify, NULL };

/* Waits until the parent has died and another has taken its place, then lives. */
static void live_as_orphan(int number)
{
	pid_t parent = getppid();

	beats[number] = 1;
	while (getppid() == parent)
		nap();
	live(number);
}

static void fork_and_leave(int number)
{
	fork_child(live_as_orphan, number);
	while (!beats[number])
		nap();
	_exit(0);
}

static void new_session_and_leave(int number)
{
	setsid();
	fork_and_leave(number);
}

/* daemon: one process stays, one has become a daemon by forking twice. */

static void daemon_start(int argc, char **argv)
{
	(void)argc, (void)argv;
	waitpid(fork_child(new_session_and_leave, next_beat++), NULL, 0);
}

static void daemon_verify(void)
{
	await_beats(next_beat);
	say("daemon=%ld", beats[0]);
}

const struct shape daemon_shape = { "daemon", "", daemon_start, NULL, daemon_verify, NULL };

/*
 * sessions: PIDs with holes between them; a session with a group of its own in it; a session
 * and a group that have outlived their leaders; two zombies, which the word "reap" waits for.
 */

static pid_t exited, killed;

static void leave_at_once(int status)
{
	_exit(status);
}

static void leave_hole(void)
{
	for (int i = 0; i < 3; i++)
		waitpid(fork_child(leave_at_once, 0), NULL, 0);
}

static void live_in_new_group(int number)
{
	setpgid(0, 0);
	live(number);
}

static void new_session(int number)
{
	setsid();
	fork_child(live, number + 1);
	fork_child(live_in_new_group, number + 2);
	live(number);
}

static pid_t leader;

static void live_in_group_of_leader(int number)
{
	if (setpgid(0, leader))
		cannot("setpgid");
	live(number);
}

static void lead_group(int unused)
{
	(void)unused;
	setpgid(0, 0);
	raise(SIGSTOP);
}

/* A group whose leader is gone, with one member that is still a child of this process. */
static void leaderless_group(int number)
{
	leader = fork_child(lead_group, 0);
	waitpid(leader, NULL, WUNTRACED);
	fork_child(live_in_group_of_leader, number);
	while (!beats[number])
		nap();
	kill(leader, SIGKILL);
	waitpid(leader, NULL, 0);
}

static void sessions_start(int argc, char **argv)
{
	(void)argc, (void)argv;
	leave_hole();
	fork_child(new_session, next_beat);
	next_beat += 3;
	leave_hole();
	waitpid(fork_child(new_session_and_leave, next_beat++), NULL, 0);
	leave_hole();
	leaderless_group(next_beat++);
	exited = fork_child(leave_at_once, 3);
	killed = fork_child(live, next_beat);
	kill(killed, SIGKILL);
	siginfo_t info;
	waitid(P_PID, exited, &info, WEXITED | WNOWAIT);
	waitid(P_PID, killed, &info, WEXITED | WNOWAIT);
}

static void sessions_verify(void)
{
	siginfo_t info = { 0 };

	await_beats(next_beat);
	if (exited && (waitid(P_PID, exited, &info, WEXITED | WNOWAIT | WNOHANG) || info.si_pid != exited))
		fail("zombie %d is gone", exited);
	if (killed && (waitid(P_PID, killed, &info, WEXITED | WNOWAIT | WNOHANG) || info.si_pid != killed))
		fail("zombie %d is gone", killed);
	say("processes=%d zombies=%d", next_beat + 1, exited ? 2 : 0);
}

static int sessions_word(const char *word)
{
	int status = 0;

	if (strcmp(word, "reap"))
		return 0;
	if (waitpid(exited, &status, 0) != exited || !WIFEXITED(status) || WEXITSTATUS(status) != 3)
		fail("the zombie that exited with 3 has status %#x", status);
	if (waitpid(killed, &status, 0) != killed || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail("the zombie killed by signal 9 has status %#x", status);
	exited = killed = 0;
	return 1;
}

const struct shape sessions = { "sessions", "", sessions_start, NULL, sessions_verify, sessions_word };
