/* holds_mappings.c - mappings larger than all memory. */
#include "holds.h"
#include <sys/sysinfo.h>

enum { PAGE = 4096 };
static char *memory;
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

const struct object mapping_objects[] = {
	{ "reserve-none", reserve_none_hold, reserve_none_check },
	{ "reserve-used", reserve_used_hold, reserve_used_check },
	{ "reserve-most", reserve_most_hold, reserve_most_check },
	{ "reserve-forked", reserve_forked_hold, reserve_forked_check },
	{ "reserve-pieces", reserve_pieces_hold, reserve_pieces_check },
	{ 0 },
};
