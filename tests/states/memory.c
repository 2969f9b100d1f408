/* memory.c - mappings: anonymous, shared, of files and memfds; protections, advice, locks, holes and guards. */
#include "states.h"
#include <sys/syscall.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum { PAGE = 4096, MOST = 24 };

/* Splits it: other protections of a part, a hole, or advice. */
static void change_part(struct object *o)
{
	unsigned pages = o->size / PAGE, from = draw(o, pages), n = 1 + draw(o, pages - from);
	char *part = o->memory + from * PAGE;

	switch (draw(o, 9)) {
	case 0: mprotect(part, n * PAGE, PROT_READ); break;
	case 1: mprotect(part, n * PAGE, PROT_NONE); break;
	case 2: mprotect(part, n * PAGE, PROT_READ | PROT_EXEC); break;
	case 3:
		if (!o->note[1] && !munmap(part, n * PAGE))
			o->note[0] = (long)part, o->note[1] = (long)part + n * PAGE;
		break;
	case 4: mlock(part, n * PAGE); break;
	case 5: madvise(part, n * PAGE, PICK(o, MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_NOHUGEPAGE)); break;
	case 6: madvise(part, n * PAGE, PICK(o, MADV_SEQUENTIAL, MADV_RANDOM, MADV_HUGEPAGE, MADV_MERGEABLE)); break;
	case 7: madvise(part, n * PAGE, o->note[2] ? MADV_DONTNEED
							: PICK(o, MADV_GUARD_INSTALL, MADV_DONTNEED, MADV_FREE)); break;
	}
}

static int keep_mapping(struct object *o, void *memory, bool touch)
{
	if (memory == MAP_FAILED)
		return -1;
	o->memory = memory;
	for (unsigned page = 0; touch && page < o->size / PAGE; page++)
		if (toss(o))
			fill(o, o->memory + page * PAGE + draw(o, 4000), 1 + draw(o, 90));
	for (int i = draw(o, 4); i > 0; i--)
		change_part(o);
	return 0;
}

static int make_anonymous(struct object *o)
{
	int flags = MAP_ANONYMOUS | PICK(o, MAP_PRIVATE, MAP_PRIVATE, MAP_SHARED);

	o->note[2] = flags & MAP_SHARED; /* with guards a dump fails, and the service runs on */
	flags |= PICK(o, 0, 0, MAP_NORESERVE, MAP_LOCKED, MAP_POPULATE, MAP_STACK);
	o->size = (1 + draw(o, MOST)) * PAGE;
	return keep_mapping(o, mmap(NULL, o->size, PROT_READ | PROT_WRITE, flags, -1, 0), true);
}

/* A stack that grows down, in the middle of a reservation. */
static int make_stack(struct object *o)
{
	char *room = mmap(NULL, 2 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		return -1;
	munmap(room, 1 << 20);
	o->size = (1 + draw(o, MOST)) * PAGE;
	return keep_mapping(o, mmap(room + (1 << 20) - o->size, o->size, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0), true);
}

static int map_file(struct object *o, int fd)
{
	bool shared = toss(o), write = toss(o);
	size_t offset = draw(o, 3) * PAGE;

	o->note[2] = shared;
	o->size = (1 + draw(o, MOST)) * PAGE;
	if (ftruncate(fd, offset + o->size + draw(o, 3) * 1000))
		return -1;
	for (int i = draw(o, 4); i > 0; i--) {
		char data[500];

		fill(o, data, sizeof data);
		if (pwrite(fd, data, sizeof data, draw(o, offset + o->size - sizeof data)) < 0)
			return -1;
	}
	return keep_mapping(o, mmap(NULL, o->size, PROT_READ | (write ? PROT_WRITE : 0),
				    shared ? MAP_SHARED : MAP_PRIVATE, fd, offset), write);
}

static int make_file_mapping(struct object *o)
{
	int fd = open(new_path(o, ""), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 || map_file(o, fd))
		return -1;
	if (!draw(o, 3))
		unlink(o->path);
	if (toss(o))
		return keep(o, fd) < 0 ? -1 : 0;
	return close(fd);
}

static int make_memfd(struct object *o)
{
	int fd = keep(o, memfd_create(o->name, PICK(o, 0, MFD_CLOEXEC, MFD_ALLOW_SEALING)));
	static const int seals[] = { F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL };

	if (fd < 0 || (toss(o) ? ftruncate(fd, draw(o, 20000)) : map_file(o, fd)))
		return -1;
	lseek(fd, draw(o, 1000), SEEK_SET);
	for (int i = draw(o, 4); i > 0; i--)
		fcntl(fd, F_ADD_SEALS, seals[draw(o, 4)]);
	if (o->memory && !draw(o, 3)) {
		close(fd);
		o->fd[0] = -1;
	}
	return 0;
}

/* Of every page that can be read, without a fault: the kernel copies, and says where it cannot. */
static void tell_memory(struct object *o)
{
	static char page[PAGE];
	uint64_t sum = 0;
	int readable = 0, pipe[2];

	tell_descriptors(o);
	if (!o->memory || pipe2(pipe, O_CLOEXEC))
		return;
	for (char *p = o->memory; p < o->memory + o->size; p += PAGE) {
		/* Something else may be in the hole by now. */
		if (((long)p >= o->note[0] && (long)p < o->note[1]) || write(pipe[1], p, PAGE) != PAGE)
			continue;
		readable++;
		sum = sum * 31 + checksum(page, read(pipe[0], page, PAGE));
	}
	close(pipe[0]);
	close(pipe[1]);
	tell(o, "memory at %p: %d of %zd pages are readable, %016lx", (void *)o->memory, readable, o->size / PAGE, sum);
}

static void tell_memfd(struct object *o)
{
	static char contents[200000];

	tell_memory(o);
	if (o->fd[0] < 0)
		return;
	tell(o, "seals %x offset %ld", fcntl(o->fd[0], F_GET_SEALS), lseek(o->fd[0], 0, SEEK_CUR));
	tell_bytes(o, "contents", contents, pread(o->fd[0], contents, sizeof contents, 0));
}

const struct kind memory_kinds[] = {
	{ "anonymous", make_anonymous, tell_memory }, { "stack", make_stack, tell_memory },
	{ "mapping", make_file_mapping, tell_memory }, { "memfd", make_memfd, tell_memfd },
	{ NULL, NULL, NULL },
};
