/*
 * system_v.c - the shape with System V memory, queues and semaphores in three processes. The first one sends numbers,
 * the second receives them, the third only holds adjustments of semaphores (SEM_UNDO).
 *
 *   undo   ends the third, whose adjustments must come back
 */
#include "service.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

enum { KEY = 0x5e7e0001, ODD = 70001, SPARSE = 64 << 20, LONGEST = 8192, ROOM = 9000 };
enum { HOLDER, RECEIVER, CHILDREN };

static struct {
	int id;
	unsigned char *at;
} plain, removed, sparse, closed, bare;
static unsigned char *read_only;
static int kept, flow, numbers, untouched, distant;
static unsigned gone;
static pid_t children[CHILDREN];
static struct identity before;
static long sent;

struct letter {
	long type;
	char text[LONGEST];
};
struct number {
	long type;
	long number;
};
/* What is in the queue that nobody reads */
static const struct {
	long type;
	size_t size;
} letters[] = { { 3, 5 }, { 1, LONGEST }, { 2, 0 }, { 3, 800 } };
enum { LETTERS = sizeof letters / sizeof *letters };

static int made(int id, const char *what)
{
	if (id < 0)
		cannot(what);
	return id;
}

static void *attached(int id, int flags)
{
	void *at = shmat(id, NULL, flags);

	if (at == (void *)-1)
		cannot("shmat");
	return at;
}

static void fill(unsigned char *at, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i++)
		at[i] = i * seed >> 3;
}

static void check(const unsigned char *at, size_t size, unsigned seed, const char *what)
{
	for (size_t i = 0; i < size; i++)
		if (at[i] != (unsigned char)(i * seed >> 3))
			return fail("byte %zu of the %s memory has changed", i, what);
}

static void operate(int num, int op, int flags)
{
	if (semop(numbers, &(struct sembuf){ num, op, IPC_NOWAIT | flags }, 1))
		cannot("semop");
}

/*
 * Numbers that are used up, so that the IDs are not the first ones. The kernel goes beyond the first 64 only while
 * there are many objects.
 */
static void count(void)
{
	int sets[100];

	for (int i = 0; i < 100; i++)
		sets[i] = made(semget(IPC_PRIVATE, 1, 0600), "semget");
	distant = sets[90];
	for (int i = 0; i < 100; i++)
		if (i != 90)
			semctl(sets[i], 0, IPC_RMID);
	for (int i = 0; i < 70; i++) {
		shmctl(made(shmget(IPC_PRIVATE, 1, 0600), "shmget"), IPC_RMID, NULL);
		msgctl(made(msgget(IPC_PRIVATE, 0600), "msgget"), IPC_RMID, NULL);
		semctl(made(semget(IPC_PRIVATE, 1, 0600), "semget"), 0, IPC_RMID);
	}
}

static void receive(int number)
{
	struct number m;

	for (long next = 1;; next++) {
		if (msgrcv(flow, &m, sizeof m.number, 0, 0) != sizeof m.number)
			fail("the receiver's msgrcv failed: %s", strerror(errno));
		if (m.number != next)
			fail("number %ld came instead of %ld", m.number, next);
		check(plain.at, ODD, 7, "inherited");
		check(removed.at, 4096, 5, "removed");
		beats[number]++;
	}
}

static void hold(int number)
{
	operate(1, 2, SEM_UNDO);
	operate(2, -3, SEM_UNDO);
	operate(3, -32767, SEM_UNDO);
	for (;;) {
		beats[number]++;
		nap();
	}
}

static void make_memory(void)
{
	plain.id = made(shmget(KEY, ODD, IPC_CREAT | IPC_EXCL | 0640), "shmget");
	plain.at = attached(plain.id, 0);
	read_only = attached(plain.id, SHM_RDONLY);
	fill(plain.at, ODD, 7);
	removed.id = made(shmget(IPC_PRIVATE, 4096, 0600), "shmget");
	removed.at = attached(removed.id, 0);
	shmctl(removed.id, IPC_RMID, NULL);
	fill(removed.at, 4096, 5);
	sparse.id = made(shmget(IPC_PRIVATE, SPARSE, 0600), "shmget");
	sparse.at = attached(sparse.id, 0);
	fill(sparse.at + SPARSE / 2, 4096, 3);
	/* Nobody has it attached, and its owner may only read it by now. */
	closed.id = made(shmget(IPC_PRIVATE, 4096, 0600), "shmget");
	closed.at = attached(closed.id, 0);
	fill(closed.at, 4096, 11);
	shmdt(closed.at);
	shmctl(closed.id, IPC_SET, &(struct shmid_ds){ .shm_perm = { .uid = geteuid(), .gid = getegid(), .mode = 0400 } });
	bare.id = made(shmget(IPC_PRIVATE, 4096, 0600), "shmget");
}

static void sysv_start(int argc, char **argv)
{
	struct letter letter = { 0 };
	struct msqid_ds state;

	(void)argc, (void)argv;
	before = identity();
	count();
	make_memory();
	kept = made(msgget(KEY, IPC_CREAT | IPC_EXCL | 0600), "msgget");
	flow = made(msgget(IPC_PRIVATE, 0600), "msgget");
	for (int i = 0; i < LETTERS; i++) {
		letter.type = letters[i].type;
		memset(letter.text, 'a' + i, letters[i].size);
		made(msgsnd(kept, &letter, letters[i].size, IPC_NOWAIT), "msgsnd");
	}
	msgctl(kept, IPC_STAT, &state);
	state.msg_qbytes = ROOM; /* full as it is */
	msgctl(kept, IPC_SET, &state);
	untouched = made(semget(IPC_PRIVATE, 2, 0600), "semget");
	numbers = made(semget(KEY, 4, IPC_CREAT | IPC_EXCL | 0660), "semget");
	made(semctl(numbers, 0, SETALL, (unsigned short[]){ 4, 0, 10, 32767 }), "SETALL");
	operate(0, -1, SEM_UNDO);
	children[RECEIVER] = fork_child(receive, RECEIVER);
	children[HOLDER] = fork_child(hold, HOLDER);
	while (!beats[HOLDER])
		nap();
}

static void sysv_tick(void)
{
	struct number m = { 1, sent + 1 };

	if (msgsnd(flow, &m, sizeof m.number, IPC_NOWAIT) == 0)
		sent++;
}

/* All that was sent arrives, in order. */
static void verify_numbers(void)
{
	sysv_tick();
	for (int tries = 500; beats[RECEIVER] < sent && tries; tries--)
		nap();
	if (beats[RECEIVER] != sent)
		fail("%ld numbers were sent, and %ld came", sent, (long)beats[RECEIVER]);
}

static void verify_memory(void)
{
	struct shmid_ds state;

	check(plain.at, ODD, 7, "shared");
	check(read_only, ODD, 7, "read-only");
	check(removed.at, 4096, 5, "removed");
	check(sparse.at + SPARSE / 2, 4096, 3, "sparse");
	if (sparse.at[SPARSE - 1] || sparse.at[0])
		fail("the sparse memory has more than it had");
	if (shmget(KEY, ODD, 0) != plain.id)
		fail("the memory has another ID or key");
	if (mprotect(read_only, 4096, PROT_READ | PROT_WRITE) == 0)
		fail("the memory that was attached to be read can be written");
	/* Behind the end, in the last page */
	plain.at[ODD]++;
	if (read_only[ODD] != plain.at[ODD])
		fail("the two attachments are not of one segment");
	if (shmctl(plain.id, IPC_STAT, &state) || state.shm_nattch != 6u - 2u * gone ||
	    (state.shm_perm.mode & 0777) != 0640 || state.shm_segsz != ODD)
		fail("the memory has %lu attachments, mode %o, size %zu", (long)state.shm_nattch,
		     state.shm_perm.mode & 0777, state.shm_segsz);
	if (shmctl(removed.id, IPC_STAT, &state) || !(state.shm_perm.mode & SHM_DEST) || state.shm_nattch != 3u - gone)
		fail("the memory that is to be removed is not any more");
	if (shmctl(closed.id, IPC_STAT, &state) || (state.shm_perm.mode & 0777) != 0400 || state.shm_nattch)
		fail("the memory that nobody has attached is lost");
	if (shmctl(bare.id, IPC_STAT, &state))
		fail("the memory that nobody has used is lost");
	closed.at = attached(closed.id, SHM_RDONLY);
	check(closed.at, 4096, 11, "unattached");
	shmdt(closed.at);
}

static void verify_queues(void)
{
	static struct letter letter;
	struct msqid_ds state;

	if (msgget(KEY, 0) != kept || msgctl(kept, IPC_STAT, &state) || state.msg_qnum != LETTERS || state.msg_qbytes != ROOM)
		fail("the queue has %lu messages and room for %lu bytes", (long)state.msg_qnum, (long)state.msg_qbytes);
	for (int i = 0; i < LETTERS; i++) {
		ssize_t size = msgrcv(kept, &letter, LONGEST, i, IPC_NOWAIT | 040000 /* MSG_COPY */);

		if (size < 0 && errno == ENOSYS)
			break;
		if (size != (ssize_t)letters[i].size || letter.type != letters[i].type)
			fail("message %d has size %zd and type %ld", i, size, letter.type);
		for (ssize_t j = 0; j < size; j++)
			if (letter.text[j] != 'a' + i)
				return fail("message %d has changed", i);
	}
}

static void verify_semaphores(void)
{
	static const int values[] = { 3, 2, 7, 0 };
	struct semid_ds state;

	if (semget(KEY, 4, 0) != numbers || semctl(numbers, 0, IPC_STAT, &state) || (state.sem_perm.mode & 0777) != 0660)
		fail("the semaphores have another ID, key or mode");
	for (int i = 0; i < 4 && !gone; i++) {
		pid_t user = semctl(numbers, i, GETPID);

		if (semctl(numbers, i, GETVAL) != values[i])
			fail("semaphore %d is %d", i, semctl(numbers, i, GETVAL));
		if (user != (i ? children[HOLDER] : before.pid))
			fail("semaphore %d was used by %d", i, user);
	}
	if (semctl(distant, 0, GETVAL) != 0)
		fail("the semaphore with a distant ID is lost");
	if (semctl(untouched, 0, IPC_STAT, &state) || state.sem_otime || semctl(untouched, 0, GETPID))
		fail("semaphores that nobody has used have been used, or are lost");
}

static void sysv_verify(void)
{
	check_identity(&before, "the first process");
	verify_memory();
	verify_queues();
	verify_semaphores();
	verify_numbers();
	if (!gone)
		await_beats(1);
	say("sent=%ld", sent);
}

/* `gone`: the third has gone, and has taken back what it did. */
static int sysv_word(const char *word)
{
	static const int values[] = { 3, 0, 10, 32767 };

	if (strcmp(word, "undo"))
		return 0;
	kill(children[HOLDER], SIGKILL);
	waitpid(children[HOLDER], NULL, 0);
	for (int i = 0; i < 4; i++)
		if (semctl(numbers, i, GETVAL) != values[i])
			fail("semaphore %d is %d and not as it was", i, semctl(numbers, i, GETVAL));
	gone = 1;
	return 1;
}

const struct shape sysv = { "sysv", "", sysv_start, sysv_tick, sysv_verify, sysv_word };
