/* holds_mappings.c - mappings of what nothing else leads to, and mappings larger than all memory. */
#include "holds.h"
#include <semaphore.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <time.h>

enum { PAGE = 4096 };
static char *memory, *again;
static const char text[] = "what was written";

static char *mapped(void *at, const char *what)
{
	if (at == MAP_FAILED)
		cannot(what);
	return at;
}

static void put(char *at)
{
	memcpy(at, text, sizeof text);
}

static void check_text(const char *at, const char *what)
{
	if (memcmp(at, text, sizeof text))
		fail("%s has changed", what);
}

/* Can the kernel read it? It says so without a signal. */
static int is_there(const char *at)
{
	int ends[2], n;

	had(pipe(ends), "pipe");
	n = write(ends[1], at, 1);
	close(ends[0]);
	close(ends[1]);
	return n == 1;
}

/* A file of some pages, which is open and has no name any more. */
static int unlinked(const char *path, int pages)
{
	int fd = had(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), path);

	had(ftruncate(fd, (long)pages * PAGE), "ftruncate");
	unlink(path);
	return fd;
}

/* As Python's multiprocessing has them: the name goes as soon as the semaphore is there. */
static sem_t *semaphores[2];

static void child_of_semaphores(int arg)
{
	(void)arg;
	for (;;) {
		sem_wait(semaphores[0]);
		beats[0]++;
		sem_post(semaphores[1]);
	}
}

static void sem_unlinked_hold(void)
{
	for (int i = 0; i < 2; i++) {
		semaphores[i] = sem_open("/holds", O_CREAT | O_EXCL, 0600, 0);
		if (semaphores[i] == SEM_FAILED)
			cannot("sem_open");
		sem_unlink("/holds");
	}
	for (int i = 0; i < 8; i++)
		fork_child(child_of_semaphores, i);
}

/* The C library links the semaphore to its name and unlinks the one it was made under; the other half opens it. */
static void child_of_named(int arg)
{
	for (int i = 0; i < 2; i++) {
		sem_close(semaphores[i]);
		semaphores[i] = sem_open(i ? "/holds-done" : "/holds-work", 0);
		if (semaphores[i] == SEM_FAILED)
			cannot("sem_open");
	}
	child_of_semaphores(arg);
}

static void sem_named_hold(void)
{
	for (int i = 0; i < 2; i++) {
		semaphores[i] = sem_open(i ? "/holds-done" : "/holds-work", O_CREAT | O_EXCL, 0600, 0);
		if (semaphores[i] == SEM_FAILED)
			cannot("sem_open");
	}
	for (int i = 0; i < 8; i++)
		fork_child(i % 2 ? child_of_named : child_of_semaphores, i);
}

static void check_semaphores(sem_t *work)
{
	struct timespec until;
	long before = beats[0];

	for (int i = 0; i < 100; i++)
		sem_post(work);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	for (int i = 0; i < 100; i++)
		if (sem_timedwait(semaphores[1], &until))
			return fail("the semaphores are not shared any more");
	if (beats[0] != before + 100)
		fail("a semaphore has let through %ld of 100", beats[0] - before);
}

static void sem_unlinked_check(void)
{
	check_semaphores(semaphores[0]);
}

static void sem_named_check(void)
{
	sem_t *opened = sem_open("/holds-work", 0);

	if (opened == SEM_FAILED)
		return fail("the name of the semaphore is lost");
	check_semaphores(opened);
	sem_close(opened);
}

/* A file of the container's root that was mapped under a name which it has no more; it has another one. */
static void linked_hold(void)
{
	int fd = had(open("/tmp/linked.new", O_RDWR | O_CREAT | O_TRUNC, 0600), "linked.new");

	had(ftruncate(fd, PAGE), "ftruncate");
	memory = mapped(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "memory");
	put(memory);
	close(fd);
	had(link("/tmp/linked.new", "/tmp/linked"), "link");
	had(unlink("/tmp/linked.new"), "unlink");
}

static void linked_check(void)
{
	int fd = open("/tmp/linked", O_RDONLY);
	char found = 0;

	check_text(memory, "the memory");
	memory[PAGE - 1]++;
	if (pread(fd, &found, 1, PAGE - 1) != 1 || found != memory[PAGE - 1])
		fail("what is mapped is another file by now");
	close(fd);
}

/* Two processes, of which each has another part, and both have the page in the middle. */
static void child_of_parts(int fd)
{
	char *part = mapped(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE), "part");

	close(fd);
	put(part + PAGE);
	for (;;) {
		part[100] = part[99];
		beats[0] = memcmp(part + PAGE, text, sizeof text) ? -1 : beats[0] + 1;
		nap();
	}
}

static void check_shared(char *page)
{
	long before = beats[0];

	page[99]++;
	for (int tries = 0; tries < 500 && (page[100] != page[99] || beats[0] == before); tries++)
		nap();
	if (page[100] != page[99])
		fail("the memory is not shared any more");
	if (beats[0] <= before)
		fail("what the child alone has mapped has changed");
}

static void hold_parts(int fd)
{
	memory = mapped(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "part");
	put(memory);
	fork_child(child_of_parts, fd);
	while (!beats[0])
		nap();
	close(fd);
}

static void unreachable_parts_hold(void)
{
	hold_parts(unlinked("/tmp/parts", 3));
}

static void unreachable_parts_shm_hold(void)
{
	hold_parts(unlinked("/dev/shm/parts", 3));
}

static void unreachable_parts_memfd_hold(void)
{
	int fd = had(memfd_create("parts", MFD_CLOEXEC), "memfd_create");

	had(ftruncate(fd, 3 * PAGE), "ftruncate");
	hold_parts(fd);
}

static void unreachable_parts_check(void)
{
	check_text(memory, "the memory");
	check_shared(memory + PAGE);
}

/* Anonymous, and each process has let go of another end. */
static void child_of_anonymous(int arg)
{
	(void)arg;
	munmap(memory, PAGE);
	put(memory + 2 * PAGE);
	for (;;) {
		memory[PAGE + 100] = memory[PAGE + 99];
		beats[0] = memcmp(memory + 2 * PAGE, text, sizeof text) ? -1 : beats[0] + 1;
		nap();
	}
}

static void anonymous_parts_hold(void)
{
	memory = mapped(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap");
	put(memory);
	fork_child(child_of_anonymous, 0);
	while (!beats[0])
		nap();
	munmap(memory + 2 * PAGE, PAGE);
}

/* The same file, shared and private. One page of the private mapping is its own. */
static void unreachable_both_hold(void)
{
	int fd = unlinked("/tmp/both", 4);

	memory = mapped(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "shared");
	again = mapped(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), "private");
	put(memory);
	put(memory + PAGE);
	again[PAGE] = 'W';
	close(fd);
}

static void unreachable_both_check(void)
{
	check_text(memory, "the shared memory");
	check_text(memory + PAGE, "the shared memory");
	check_text(again, "the private memory");
	if (again[PAGE] != 'W' || memcmp(again + PAGE + 1, text + 1, sizeof text - 1))
		fail("what was written to the private memory has changed");
	memory[99]++;
	if (again[99] != memory[99])
		fail("the private mapping is not one of the shared file any more");
	memory[PAGE + 99]++;
	if (again[PAGE + 99])
		fail("the page that was written is not private any more");
}

/* As a library that was upgraded: private parts, with code, data that was written, and what nobody may touch. */
static void child_of_library(int arg)
{
	(void)arg;
	for (;;) {
		beats[0] = memcmp(memory, text, sizeof text) || again[0] != 'W' ? -1 : beats[0] + 1;
		nap();
	}
}

static void unreachable_library_hold(void)
{
	int fd = unlinked("/tmp/library", 8);

	for (int i = 0; i < 8; i++)
		if (pwrite(fd, text, sizeof text, (long)i * PAGE) != sizeof text)
			cannot("pwrite");
	memory = mapped(mmap(NULL, 8 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0), "code");
	had(mprotect(memory + 2 * PAGE, 2 * PAGE, PROT_NONE), "mprotect");
	again = mapped(mmap(memory + 6 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 6 * PAGE), "data");
	again[0] = 'W';
	again[PAGE] = 'W';
	had(mprotect(again, PAGE, PROT_READ), "mprotect");
	close(fd);
	fork_child(child_of_library, 0);
	while (!beats[0])
		nap();
}

static void unreachable_library_check(void)
{
	for (int i = 0; i < 8; i++)
		if (i != 2 && i != 3 && memcmp(memory + i * PAGE + 1, text + 1, sizeof text - 1))
			fail("page %d has changed", i);
	if (again[0] != 'W' || again[PAGE] != 'W')
		fail("what was written has changed");
	if (is_there(memory + 2 * PAGE))
		fail("what nobody may touch can be read");
	had(mprotect(memory + 2 * PAGE, PAGE, PROT_READ), "mprotect");
	check_text(memory + 2 * PAGE, "what nobody may touch");
	had(mprotect(memory + 2 * PAGE, PAGE, PROT_NONE), "mprotect");
	await_beats(1);
	if (beats[0] < 0)
		fail("the child's memory has changed");
}

/* The program itself was replaced, as by an upgrade. */
static void upgraded_hold(void)
{
	char path[512] = "";

	had(readlink("/proc/self/exe", path, sizeof path - 1), "readlink");
	had(unlink(path), path);
	memory = again = NULL;
}

static void upgraded_check(void)
{
	if (memory || again)
		fail("the data has changed");
}

/* It may be read, ends before its mapping does, and stays like that. Another mapping is behind its end as a whole. */
static void hold_end(const char *path)
{
	int fd = had(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), path), reader;

	if (pwrite(fd, text, sizeof text, PAGE) != sizeof text)
		cannot("pwrite");
	reader = had(open(path, O_RDONLY), path);
	unlink(path);
	memory = mapped(mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, reader, 0), "end");
	again = mapped(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reader, 8 * PAGE), "behind the end");
	close(fd);
	close(reader);
}

static void unreachable_end_hold(void)
{
	hold_end("/tmp/end");
}

static void unreachable_end_shm_hold(void)
{
	hold_end("/dev/shm/end");
}

static void unreachable_end_check(void)
{
	check_text(memory + PAGE, "the memory");
	if (is_there(memory + 2 * PAGE) || is_there(memory + 3 * PAGE) || is_there(again))
		fail("the file has grown");
	if (!mprotect(memory, PAGE, PROT_READ | PROT_WRITE))
		fail("what was opened to be read can be written");
}

/* A page in its middle that the kernel lets nobody read, as after a fault of a disk (Linux 6.15). */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static void unreadable_hold(void)
{
	int fd = unlinked("/tmp/unreadable", 3);

	memory = mapped(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "unreadable");
	put(memory + 2 * PAGE);
	had(madvise(memory + PAGE, PAGE, MADV_GUARD_INSTALL), "madvise");
	close(fd);
}

static void unreadable_check(void)
{
	check_text(memory + 2 * PAGE, "the memory");
}

/* Its only descriptor is in a message that nobody has received yet. */
static void in_flight_hold(void)
{
	int fd = unlinked("/dev/shm/in-flight", 1), ends[2];
	char control[CMSG_SPACE(sizeof fd)] = "", byte = 0;
	struct iovec one = { &byte, 1 };
	struct msghdr message = { .msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

	memory = mapped(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "in flight");
	put(memory);
	had(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), "socketpair");
	*rights = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd) };
	memcpy(CMSG_DATA(rights), &fd, sizeof fd);
	had(sendmsg(ends[0], &message, 0), "sendmsg");
	close(fd);
}

static void in_flight_check(void)
{
	check_text(memory, "the memory");
}

/* Nothing, with something at both ends. */
static void unreachable_sparse_hold(void)
{
	int fd = unlinked("/dev/shm/sparse", 16384);

	memory = mapped(mmap(NULL, 16384L * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "sparse");
	put(memory);
	put(memory + 16383L * PAGE);
	close(fd);
}

static void unreachable_sparse_check(void)
{
	check_text(memory, "the memory");
	check_text(memory + 16383L * PAGE, "the end of the memory");
}

/* Swapped out, where the host has swap: every second page of shared memory, and of a file in memory. */
enum { SWAPPED = 2048 };

static void swap_out(void)
{
	had(madvise(memory, (long)SWAPPED * PAGE, MADV_PAGEOUT), "madvise");
	had(madvise(again, (long)SWAPPED * PAGE, MADV_PAGEOUT), "madvise");
}

static void swapped_hold(void)
{
	int fd = unlinked("/dev/shm/swapped", SWAPPED);

	memory = mapped(mmap(NULL, (long)SWAPPED * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "anonymous");
	again = mapped(mmap(NULL, (long)SWAPPED * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "file");
	close(fd);
	for (long i = 0; i < SWAPPED; i += 2) {
		put(memory + i * PAGE);
		put(again + i * PAGE);
	}
	swap_out();
}

static void swapped_check(void)
{
	for (long i = 0; i < SWAPPED; i += 2) {
		check_text(memory + i * PAGE, "the memory");
		check_text(again + i * PAGE, "the file in memory");
	}
	swap_out();
}

static unsigned long size, middle;

static void reserve(unsigned long gibibytes, int prot, int flags)
{
	size = gibibytes << 30;
	middle = size / 2;
	memory = mapped(mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0), "mmap");
}

static int has_flag(const char *at, const char *flag)
{
	char line[512], first[32];
	FILE *smaps = fopen("/proc/self/smaps", "r");
	int here = 0, found = 0;

	snprintf(first, sizeof first, "%lx-", (unsigned long)at);
	while (smaps && fgets(line, sizeof line, smaps)) {
		if (strchr("0123456789abcdef", line[0]))
			here = !strncmp(line, first, strlen(first));
		else if (here && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, flag) != NULL;
	}
	if (smaps)
		fclose(smaps);
	return found;
}

/* As .NET, GHC and MariaDB reserve memory: nobody may touch it but for what is in use. */
static void reserve_none_hold(void)
{
	reserve(400, PROT_NONE, 0);
	had(mprotect(memory + middle, 1 << 20, PROT_READ | PROT_WRITE), "mprotect");
	put(memory + middle);
}

static void reserve_none_check(void)
{
	static int grown;
	char *next = memory + middle + (++grown << 20);

	check_text(memory + middle, "the memory");
	if (is_there(memory))
		fail("what nobody may touch can be read");
	if (has_flag(memory, " nr"))
		fail("the memory is not reserved by what is written any more");
	if (mprotect(next, 1 << 20, PROT_READ | PROT_WRITE))
		return fail("mprotect: %s", strerror(errno));
	put(next);
}

/* Used, and given back to nobody's use. */
static void reserve_used_hold(void)
{
	reserve(400, PROT_NONE, MAP_NORESERVE);
	had(mprotect(memory, 1 << 20, PROT_READ | PROT_WRITE), "mprotect");
	put(memory);
	had(mprotect(memory, 1 << 20, PROT_NONE), "mprotect");
}

static void reserve_used_check(void)
{
	if (is_there(memory))
		fail("what nobody may touch can be read");
	had(mprotect(memory, 1 << 20, PROT_READ), "mprotect");
	check_text(memory, "the memory");
	had(mprotect(memory, 1 << 20, PROT_NONE), "mprotect");
}

/* As sanitizers do: more pages than 32 bits can count. */
static void reserve_most_hold(void)
{
	reserve(16384, PROT_READ | PROT_WRITE, MAP_NORESERVE);
	put(memory);
	put(memory + middle);
	put(memory + size - PAGE);
}

static void reserve_most_check(void)
{
	check_text(memory, "the memory");
	check_text(memory + middle, "the middle of the memory");
	check_text(memory + size - PAGE, "the end of the memory");
	if (!has_flag(memory, " nr"))
		fail("the memory is reserved");
}

static void child_of_most(int arg)
{
	(void)arg;
	memory[size - 2 * PAGE] = 'C';
	for (;;) {
		beats[0] = memcmp(memory + middle, text, sizeof text) || memory[size - 2 * PAGE] != 'C' ? -1 : beats[0] + 1;
		nap();
	}
}

static void reserve_forked_hold(void)
{
	reserve_most_hold();
	fork_child(child_of_most, 0);
	while (!beats[0])
		nap();
}

static void reserve_forked_check(void)
{
	reserve_most_check();
	await_beats(1);
	if (beats[0] < 0)
		fail("the child's memory has changed");
	if (memory[size - 2 * PAGE])
		fail("the child has written to our memory");
}

/* Shared with a child, and not there but for what was written. */
static void child_of_shared(int arg)
{
	(void)arg;
	for (;;) {
		memory[middle + 100] = memory[middle + 99];
		beats[0]++;
		nap();
	}
}

static long shared_kibibytes(void)
{
	char line[256];
	FILE *status = fopen("/proc/self/status", "r");
	long found = -1;

	while (status && fgets(line, sizeof line, status))
		sscanf(line, "RssShmem: %ld", &found);
	if (status)
		fclose(status);
	return found;
}

static void reserve_shared_hold(void)
{
	size = 40UL << 30;
	middle = size / 2;
	memory = mapped(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), "mmap");
	put(memory);
	put(memory + size - PAGE);
	fork_child(child_of_shared, 0);
	while (!beats[0])
		nap();
}

static void reserve_shared_check(void)
{
	check_text(memory, "the memory");
	check_text(memory + size - PAGE, "the end of the memory");
	check_shared(memory + middle);
	if (shared_kibibytes() > 1024)
		fail("there are %ld KiB of shared memory", shared_kibibytes());
}

/* Grown by and by to more than there is. */
static void reserve_pieces_hold(void)
{
	struct sysinfo info;

	sysinfo(&info);
	reserve((((info.totalram + info.totalswap) * info.mem_unit) >> 30) + 3, PROT_NONE, 0);
	for (unsigned long at = 0; at < size; at += 1UL << 30)
		had(mprotect(memory + at, 1UL << 30, PROT_READ | PROT_WRITE), "mprotect");
	put(memory);
	put(memory + size - PAGE);
}

static void reserve_pieces_check(void)
{
	check_text(memory, "the memory");
	check_text(memory + size - PAGE, "the end of the memory");
	if (has_flag(memory, " nr"))
		fail("the memory is not reserved any more");
}

static void unmap_vdso(int arg)
{
	(void)arg;
	unmap_all("[vdso]");
	beats[0]++;
	for (;;)
		pause();
}

static void half_vdso_hold(void)
{
	fork_child(unmap_vdso, 0);
	while (!beats[0])
		nap();
}

const struct object mapping_objects[] = {
	{ "half-vdso", half_vdso_hold, NULL },
	{ "sem-unlinked", sem_unlinked_hold, sem_unlinked_check },
	{ "sem-named", sem_named_hold, sem_named_check },
	{ "mapped-linked", linked_hold, linked_check },
	{ "unreachable-parts", unreachable_parts_hold, unreachable_parts_check },
	{ "unreachable-parts-shm", unreachable_parts_shm_hold, unreachable_parts_check },
	{ "unreachable-parts-memfd", unreachable_parts_memfd_hold, unreachable_parts_check },
	{ "anonymous-parts", anonymous_parts_hold, unreachable_parts_check },
	{ "unreachable-both", unreachable_both_hold, unreachable_both_check },
	{ "unreachable-library", unreachable_library_hold, unreachable_library_check },
	{ "upgraded", upgraded_hold, upgraded_check },
	{ "unreachable-end", unreachable_end_hold, unreachable_end_check },
	{ "unreachable-end-shm", unreachable_end_shm_hold, unreachable_end_check },
	{ "unreadable", unreadable_hold, unreadable_check },
	{ "in-flight", in_flight_hold, in_flight_check },
	{ "unreachable-sparse", unreachable_sparse_hold, unreachable_sparse_check },
	{ "swapped", swapped_hold, swapped_check },
	{ "reserve-none", reserve_none_hold, reserve_none_check },
	{ "reserve-used", reserve_used_hold, reserve_used_check },
	{ "reserve-most", reserve_most_hold, reserve_most_check },
	{ "reserve-forked", reserve_forked_hold, reserve_forked_check },
	{ "reserve-shared", reserve_shared_hold, reserve_shared_check },
	{ "reserve-pieces", reserve_pieces_hold, reserve_pieces_check },
	{ 0 },
};
