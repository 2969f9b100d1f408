/* attributes_memory.c - what mappings have, each in one of its own. */
#include "attributes.h"
#include <sys/syscall.h>
#include <sys/uio.h>

#define GROUP "memory"

enum { SIZE = 4 << 12 };

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

struct mapping {
	const char *name;
	int flags, advice, locked; /* of mmap, madvise and mlock2 (1: plain, 2: on fault) */
	char *memory;
};

/* The line of smaps with the flags of this mapping, without those that tell of its past. */
static void put_flags(struct value *v, const char *memory)
{
	char line[512], *flags = NULL;
	FILE *file = fopen("/proc/self/smaps", "re");
	unsigned long start = 0, end = 0, from, to;
	size_t used = 0;

	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			start = from, end = to;
		if (start <= (uintptr_t)memory && (uintptr_t)memory < end && !strncmp(line, "VmFlags: ", 9)) {
			flags = line + 9;
			break;
		}
	}
	for (char *flag = flags ? strtok(flags, " \n") : NULL; flag; flag = strtok(NULL, " \n"))
		if (strcmp(flag, "sd") && strcmp(flag, "gu"))
			used += snprintf((char *)v->bytes + used, sizeof v->bytes - used, "%s ", flag);
	v->size = used;
	if (file)
		fclose(file);
}

static int set_mapping(const struct attribute *a)
{
	struct mapping *m = (struct mapping *)a->what;
	int flags = m->flags & MAP_SHARED ? m->flags : m->flags & MAP_DROPPABLE ? m->flags : m->flags | MAP_PRIVATE;
	char *area = mmap(NULL, 3 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* Between two mappings of another kind, so that it stays one of its own. */
	m->memory = mmap(area + SIZE, SIZE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (m->memory == MAP_FAILED)
		return -1;
	strcpy(m->memory, m->name);
	if (m->advice && madvise(m->memory, SIZE, m->advice))
		return -1;
	return m->locked && syscall(SYS_mlock2, m->memory, SIZE, m->locked - 1) ? -1 : 0;
}

static void get_mapping(const struct attribute *a, struct value *v)
{
	const struct mapping *m = a->what;

	if (m->memory)
		put_flags(v, m->memory);
}

static struct mapping mappings[] = {
	{ "MADV_DONTFORK", 0, MADV_DONTFORK, 0, NULL },
	{ "MADV_WIPEONFORK", 0, MADV_WIPEONFORK, 0, NULL },
	{ "MADV_DONTDUMP", 0, MADV_DONTDUMP, 0, NULL },
	{ "MADV_MERGEABLE", 0, MADV_MERGEABLE, 0, NULL },
	{ "MADV_HUGEPAGE", 0, MADV_HUGEPAGE, 0, NULL },
	{ "MADV_NOHUGEPAGE", 0, MADV_NOHUGEPAGE, 0, NULL },
	{ "MADV_SEQUENTIAL", 0, MADV_SEQUENTIAL, 0, NULL },
	{ "MADV_RANDOM", 0, MADV_RANDOM, 0, NULL },
	{ "MADV_DONTFORK shared", MAP_SHARED, MADV_DONTFORK, 0, NULL },
	{ "MAP_GROWSDOWN", MAP_GROWSDOWN, 0, 0, NULL },
	{ "MAP_NORESERVE", MAP_NORESERVE, 0, 0, NULL },
	{ "MAP_DROPPABLE", MAP_DROPPABLE, 0, 0, NULL },
	{ "mlock", 0, 0, 1, NULL },
	{ "mlock2 MLOCK_ONFAULT", 0, 0, 2, NULL },
};

/* What is not in the flags of a mapping. */

static char *sealed, *guarded, *keyed;

static char *pages(void)
{
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		cannot("mmap");
	memset(memory, 'x', SIZE);
	return memory;
}

static int set_guard(void)
{
	guarded = pages();
	return madvise(guarded + SIZE / 2, SIZE / 2, MADV_GUARD_INSTALL);
}

/* Which of its pages can be read. */
static void put_guard(struct value *v)
{
	char byte, seen[5] = "";
	struct iovec to = { &byte, 1 };

	for (int i = 0; i < 4; i++) {
		struct iovec from = { guarded + i * SIZE / 4, 1 };

		seen[i] = process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? byte : '-';
	}
	put(v, "%s", seen);
}

static int set_key(void)
{
	int key = pkey_alloc(0, PKEY_DISABLE_WRITE);

	keyed = pages();
	return key < 0 ? -1 : pkey_mprotect(keyed, SIZE, PROT_READ | PROT_WRITE, key);
}

static void put_key(struct value *v)
{
	char line[256];
	FILE *file = fopen("/proc/self/smaps", "re");
	unsigned long from, to;
	int key, found = 0;

	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			found = from == (uintptr_t)keyed;
		if (found && sscanf(line, "ProtectionKey: %d", &key) == 1)
			put(v, "%d %d", key, pkey_get(key));
	}
	if (file)
		fclose(file);
}

/* Whether what is mapped from now on is locked, and how. */
static void put_future(struct value *v)
{
	char *memory = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	put_flags(v, memory);
	munmap(memory, SIZE);
}

#define MEMORY(X)                                                                                            \
	X(seal, "mseal", (sealed = pages(), syscall(SYS_mseal, sealed, SIZE, 0)), if (sealed) put_flags(v, sealed)) \
	X(guard, "MADV_GUARD_INSTALL", set_guard(), if (guarded) put_guard(v))                               \
	X(key, "pkey_mprotect", set_key(), if (keyed) put_key(v))                                            \
	X(future, "MCL_FUTURE MCL_ONFAULT", mlockall(MCL_FUTURE | MCL_ONFAULT), put_future(v))

MEMORY(DEFINE_ATTRIBUTE)

void add_memory_attributes(void)
{
	for (size_t i = 0; i < sizeof mappings / sizeof *mappings; i++)
		add((struct attribute){ GROUP, mappings[i].name, set_mapping, get_mapping, &mappings[i], -1, false });
	MEMORY(ADD_ATTRIBUTE)
}
