/* holds_memory.c - objects that are mapped, and System V objects. */
#include "holds.h"
#include <sys/resource.h>
#include <linux/aio_abi.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>

enum { SIZE = 8192 };
static char *memory, *again;
static int fd = -1, queue, semaphore;
static aio_context_t aio;

static char *mapped(char *at, const char *what)
{
	if (at == MAP_FAILED)
		cannot(what);
	return at;
}

static void fill(void)
{
	strcpy(memory, "what was written");
}

static void memory_check(void)
{
	if (strcmp(memory, "what was written"))
		fail("the memory has changed");
}

static void shm_hold(void)
{
	int id = had(shmget(IPC_PRIVATE, SIZE, 0600), "shmget");

	memory = mapped(shmat(id, NULL, 0), "shmat");
	fill();
}

static void shm_removed_hold(void)
{
	int id = had(shmget(IPC_PRIVATE, SIZE, 0600), "shmget");

	memory = mapped(shmat(id, NULL, 0), "shmat");
	shmctl(id, IPC_RMID, NULL);
	fill();
}

static void shm_unattached_hold(void)
{
	queue = had(shmget(IPC_PRIVATE, SIZE, 0600), "shmget");
}

static void shm_unattached_check(void)
{
	if (shmctl(queue, IPC_STAT, &(struct shmid_ds){ 0 }))
		fail("the memory is lost");
}

/* A part of it only */
static void shm_part_hold(void)
{
	shm_hold();
	munmap(memory + SIZE / 2, SIZE / 2);
}

static void message_hold(void)
{
	queue = had(msgget(IPC_PRIVATE, 0600), "msgget");
}

static void message_check(void)
{
	if (msgctl(queue, IPC_STAT, &(struct msqid_ds){ 0 }))
		fail("the queue is lost");
}

/* One that was used on both sides, and has a message in it */
static void letter_hold(void)
{
	struct { long type; char text; } letter = { 1, 'a' };

	message_hold();
	for (int i = 0; i < 2; i++)
		had(msgsnd(queue, &letter, 1, IPC_NOWAIT), "msgsnd");
	had(msgrcv(queue, &letter, 1, 0, IPC_NOWAIT), "msgrcv");
}

static void letter_check(void)
{
	struct msqid_ds state;

	if (msgctl(queue, IPC_STAT, &state) || state.msg_qnum < 1)
		fail("the message is lost");
}

static void semaphore_hold(void)
{
	semaphore = had(semget(IPC_PRIVATE, 1, 0600), "semget");
}

static void semaphore_check(void)
{
	if (semctl(semaphore, 0, GETVAL) != 0)
		fail("the semaphore is lost");
}

static void ring_hold(void)
{
	char parameters[120] = { 0 }; /* struct io_uring_params */
	int ring = had(syscall(SYS_io_uring_setup, 4, parameters), "io_uring_setup");

	memory = mapped(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0x10000000), "io_uring");
	close(ring);
}

static void aio_hold(void)
{
	had(syscall(SYS_io_setup, 16, &aio), "io_setup");
}

static void aio_check(void)
{
	struct io_event event;

	if (syscall(SYS_io_getevents, aio, 0, 1, &event, &(struct timespec){ 0 }) < 0)
		fail("the ring is lost");
}

static void on_fault(int number)
{
	_exit(number);
}

/* What reads the ring gets SIGSEGV: so does CRIU, in the service. */
static void unreadable_aio_hold(void)
{
	aio_hold();
	had(mprotect((void *)aio, 4096, PROT_NONE), "mprotect");
	signal(SIGSEGV, on_fault);
}

static void unreadable_aio_check(void)
{
	struct sigaction now;

	if (sigaction(SIGSEGV, NULL, &now) || now.sa_handler != on_fault)
		fail("the handler is lost");
}

static void memfd(int flags)
{
	fd = had(memfd_create("holds", 0), "memfd_create");
	had(ftruncate(fd, SIZE), "ftruncate");
	if (write(fd, "what was written", 17) != 17)
		cannot("write");
	memory = mapped(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, fd, 0), "memfd");
}

static void memfd_shared_hold(void)
{
	memfd(MAP_SHARED);
}

static void memfd_shared_check(void)
{
	char text[17] = "";

	memory_check();
	memory[0]++;
	if (pread(fd, text, 17, 0) != 17 || memcmp(text, memory, 17))
		fail("descriptor and memory are not one file any more");
	memory[0]--;
}

static void memfd_closed_hold(void)
{
	memfd(MAP_SHARED);
	close(fd);
}

/* Shared with a child, in which the first writes show. */
static void child_of_memfd(int arg)
{
	(void)arg;
	for (;;) {
		again[100] = again[99];
		nap();
	}
}

static void memfd_two_hold(void)
{
	memfd(MAP_SHARED);
	again = memory;
	close(fd);
	fork_child(child_of_memfd, 0);
}

static void memfd_two_check(void)
{
	memory_check();
	memory[99]++;
	for (int tries = 0; tries < 200 && memory[100] != memory[99]; tries++)
		nap();
	if (memory[100] != memory[99])
		fail("the memory is not shared any more");
}

static void memfd_private_hold(void)
{
	memfd(MAP_PRIVATE);
}

static void memfd_private_closed_hold(void)
{
	memfd(MAP_PRIVATE);
	close(fd);
}

static void deleted(int flags)
{
	fd = had(open("/tmp/deleted", O_RDWR | O_CREAT, 0600), "file");
	had(ftruncate(fd, SIZE), "ftruncate");
	memory = mapped(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, fd, 0), "file");
	fill();
	unlink("/tmp/deleted");
}

static void deleted_mapped_hold(void)
{
	deleted(MAP_PRIVATE);
	close(fd);
}

static void deleted_mapped_shared_hold(void)
{
	deleted(MAP_SHARED);
	close(fd);
}

static void deleted_mapped_open_hold(void)
{
	deleted(MAP_SHARED);
}

static void deleted_shm_hold(void)
{
	fd = had(open("/dev/shm/deleted", O_RDWR | O_CREAT, 0600), "file");
	had(ftruncate(fd, SIZE), "ftruncate");
	memory = mapped(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "file");
	fill();
	unlink("/dev/shm/deleted");
	close(fd);
}

static void secret_hold(void)
{
	fd = had(syscall(SYS_memfd_secret, 0), "memfd_secret");
	had(ftruncate(fd, SIZE), "ftruncate");
	memory = mapped(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "memfd_secret");
	fill();
}

static void secret_closed_hold(void)
{
	secret_hold();
	close(fd);
}

static void huge_hold(void)
{
	memory = mapped(mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0),
			"MAP_HUGETLB");
}

static void huge_memfd_hold(void)
{
	fd = had(memfd_create("huge", MFD_HUGETLB), "MFD_HUGETLB");
}

static void zero_mapped_hold(void)
{
	int zero = had(open("/dev/zero", O_RDWR), "/dev/zero");

	memory = mapped(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0), "/dev/zero");
	fill();
	close(zero);
}

static void mdwe_hold(void)
{
	had(prctl(65, 1, 0, 0, 0), "PR_SET_MDWE");
}

static void mdwe_check(void)
{
	if (prctl(66, 0, 0, 0, 0) != 1)
		fail("PR_SET_MDWE is lost");
}

static void wipe_hold(void)
{
	memory = mapped(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
	fill();
	had(madvise(memory, SIZE, MADV_WIPEONFORK), "MADV_WIPEONFORK");
}

/* All memory is locked, and all that is mapped from now on, as Vault and ntpd have it. */
static size_t locked(void)
{
	char line[128];
	size_t kib = 0;
	FILE *status = fopen("/proc/self/status", "re");

	while (status && fgets(line, sizeof line, status))
		sscanf(line, "VmLck: %zu", &kib);
	if (status)
		fclose(status);
	return kib;
}

/* No more may be mapped. */
static void full_hold(void)
{
	char text[64] = "";
	int fd = had(open("/proc/self/statm", O_RDONLY), "statm");
	struct rlimit limit;

	had(read(fd, text, sizeof text - 1), "statm");
	close(fd);
	had(getrlimit(RLIMIT_AS, &limit), "getrlimit");
	limit.rlim_cur = strtoul(text, NULL, 10) * 4096 + 16 * 4096;
	had(setrlimit(RLIMIT_AS, &limit), "setrlimit");
}

static void locked_future_hold(void)
{
	char *memory;

	had(mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall");
	memory = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		cannot("mmap");
	memset(memory, 7, 2 << 20);
}

static void locked_future_check(void)
{
	size_t before = locked();
	char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char there = 0;

	if (before < 2 << 10)
		fail("%zu KiB are locked", before);
	if (page == MAP_FAILED || locked() != before + 4 || mincore(page, 4096, &there) || !there)
		fail("a new page is not locked");
	munmap(page, 4096);
}

const struct object memory_objects[] = {
	{ "shm", shm_hold, memory_check },
	{ "shm-removed", shm_removed_hold, memory_check },
	{ "shm-unattached", shm_unattached_hold, shm_unattached_check },
	{ "shm-part", shm_part_hold, memory_check },
	{ "messages", message_hold, message_check },
	{ "letter", letter_hold, letter_check },
	{ "semaphores", semaphore_hold, semaphore_check },
	{ "ring-mapped", ring_hold, NULL },
	{ "aio", aio_hold, aio_check },
	{ "unreadable-aio", unreadable_aio_hold, unreadable_aio_check },
	{ "memfd-shared", memfd_shared_hold, memfd_shared_check },
	{ "memfd-closed", memfd_closed_hold, memory_check },
	{ "memfd-two", memfd_two_hold, memfd_two_check },
	{ "memfd-private", memfd_private_hold, memory_check },
	{ "memfd-private-closed", memfd_private_closed_hold, memory_check },
	{ "deleted-mapped", deleted_mapped_hold, memory_check },
	{ "deleted-mapped-shared", deleted_mapped_shared_hold, memory_check },
	{ "deleted-mapped-open", deleted_mapped_open_hold, memory_check },
	{ "deleted-shm", deleted_shm_hold, memory_check },
	{ "secret", secret_hold, memory_check },
	{ "secret-closed", secret_closed_hold, memory_check },
	{ "huge", huge_hold, NULL },
	{ "huge-memfd", huge_memfd_hold, NULL },
	{ "zero-mapped", zero_mapped_hold, memory_check },
	{ "mdwe", mdwe_hold, mdwe_check },
	{ "wipe-on-fork", wipe_hold, memory_check },
	{ "address-space-full", full_hold, NULL },
	{ "locked-future", locked_future_hold, locked_future_check },
	{ 0 },
};
