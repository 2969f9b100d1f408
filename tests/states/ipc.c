/* ipc.c - System V memory, queues and semaphores; POSIX shared memory. */
#include "states.h"
#include <linux/landlock.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>

static key_t key_of(struct object *o)
{
	return toss(o) ? IPC_PRIVATE : (key_t)checksum(o->name, strlen(o->name)) | 1;
}

static int make_memory(struct object *o)
{
	int id = shmget(key_of(o), o->size = 1 + draw(o, 30000), IPC_CREAT | PICK(o, 0600, 0640, 0666));

	o->note[0] = id;
	if (id < 0)
		return -1;
	o->memory = shmat(id, NULL, 0);
	if (o->memory == (void *)-1)
		return -1;
	fill(o, o->memory, o->size);
	if (toss(o)) {
		shmdt(o->memory);
		o->memory = shmat(id, NULL, SHM_RDONLY);
	}
	return draw(o, 3) ? 0 : shmctl(id, IPC_RMID, NULL);
}

static void tell_memory(struct object *o)
{
	struct shmid_ds ds;

	tell_bytes(o, "memory", o->memory, o->size);
	if (shmctl(o->note[0], IPC_STAT, &ds))
		return tell(o, "shmctl: %s", strerror(errno));
	tell(o, "key %x mode %o uid %d size %zu attached %ld", ds.shm_perm.__key, ds.shm_perm.mode, ds.shm_perm.uid,
	     ds.shm_segsz, (long)ds.shm_nattch);
}

struct message {
	long type;
	char text[2000];
};

static int make_queue(struct object *o)
{
	struct message message;
	int id = msgget(key_of(o), IPC_CREAT | PICK(o, 0600, 0640));

	o->note[0] = id;
	for (int i = id < 0 ? 0 : draw(o, 6); i > 0; i--) {
		size_t size = draw(o, sizeof message.text);

		message.type = 1 + draw(o, 5);
		fill(o, message.text, size);
		if (msgsnd(id, &message, size, IPC_NOWAIT))
			return -1;
	}
	return id;
}

static void tell_queue(struct object *o)
{
	struct msqid_ds ds;
	struct message message;

	if (msgctl(o->note[0], IPC_STAT, &ds))
		return tell(o, "msgctl: %s", strerror(errno));
	tell(o, "key %x mode %o uid %d messages %ld limit %ld", ds.msg_perm.__key, ds.msg_perm.mode, ds.msg_perm.uid,
	     ds.msg_qnum, ds.msg_qbytes);
	for (unsigned i = 0; i < ds.msg_qnum; i++) {
		ssize_t size = msgrcv(o->note[0], &message, sizeof message.text, i, IPC_NOWAIT | MSG_COPY);

		tell(o, "message %u of type %ld", i, size < 0 ? -1 : message.type);
		tell_bytes(o, "message", message.text, size);
	}
}

static int make_semaphores(struct object *o)
{
	int n = 1 + draw(o, 10), id = semget(key_of(o), n, IPC_CREAT | PICK(o, 0600, 0640));

	o->note[0] = id;
	o->note[1] = n;
	for (int i = 0; id >= 0 && i < n; i++) {
		struct sembuf change = { i, 1 + draw(o, 1000), toss(o) ? SEM_UNDO : 0 };

		if (toss(o) && semop(id, &change, 1))
			return -1;
	}
	return id;
}

static void tell_semaphores(struct object *o)
{
	struct semid_ds ds;

	if (semctl(o->note[0], 0, IPC_STAT, &ds))
		return tell(o, "semctl: %s", strerror(errno));
	tell(o, "key %x mode %o semaphores %ld", ds.sem_perm.__key, ds.sem_perm.mode, (long)ds.sem_nsems);
	for (int i = 0; i < o->note[1]; i++)
		tell(o, "semaphore %d: %d", i, semctl(o->note[0], i, GETVAL));
}

static int make_shm(struct object *o)
{
	char name[40];
	int fd;

	snprintf(name, sizeof name, "/%s", o->name);
	fd = keep(o, shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600));
	o->size = 4096 * (1 + draw(o, 5));
	if (fd < 0 || ftruncate(fd, o->size))
		return -1;
	o->memory = mmap(NULL, o->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (o->memory == MAP_FAILED)
		return -1;
	fill(o, o->memory, draw(o, o->size));
	return draw(o, 3) ? 0 : shm_unlink(name);
}

static void tell_shm(struct object *o)
{
	tell_descriptors(o);
	tell_bytes(o, "memory", o->memory, o->size);
}

/* What the preflight refuses: it must name the right process. */
static int make_refused(struct object *o)
{
	struct landlock_ruleset_attr rules = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };
	int fd;

	switch (draw(o, 4)) {
	case 0:
		snprintf(o->path, sizeof o->path, "/%s", o->name);
		return keep(o, mq_open(o->path, O_CREAT | O_RDWR, 0600, NULL)) < 0 ? -1 : 0;
	case 1:
		return keep(o, syscall(SYS_memfd_secret, 0)) < 0 ? -1 : 0;
	case 2:
		return keep(o, syscall(SYS_landlock_create_ruleset, &rules, sizeof rules.handled_access_fs, 0)) < 0 ? -1 : 0;
	}
	fd = keep(o, open(new_path(o, ""), O_CREAT | O_EXCL | O_WRONLY, 0600));
	return fd < 0 ? -1 : fcntl(fd, F_SETLEASE, F_WRLCK);
}

const struct kind ipc_kinds[] = {
	{ "sysv-memory", make_memory, tell_memory },	     { "sysv-queue", make_queue, tell_queue },
	{ "sysv-semaphores", make_semaphores, tell_semaphores }, { "shm", make_shm, tell_shm },
	{ "refused", make_refused, tell_descriptors },	     { NULL, NULL, NULL },
};
