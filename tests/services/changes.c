/*
 * changes.c - processes that change their memory when they are told to, in every way that mappings can change, and know what
 * each page holds. What they know is in shared memory, which is carried in another way.
 *
 *   changes WORKERS SEED    so many besides the first, forked from it when it has memory already. `change` changes all;
 *                           one of the workers ends at each change, and another one is forked
 */
#include "service.h"
#include <malloc.h>

enum { PAGE = 4096, SLOTS = 4096, HEAP = 512, MOST = 24, STEPS = 40, LONGEST = 96 };

static char *const arena = (char *)0x200000000000;

struct slot {
	uint32_t value; /* 0: never written since it was mapped */
	char mapped, read_only;
};

static struct {
	atomic_int changes, verifies, changed[MOST], verified[MOST];
	struct model {
		struct slot arena[SLOTS];
		uint32_t heap[HEAP];
		int heap_pages;
		unsigned state;
	} models[MOST];
} *shared;

static int workers, me, changes_done, told, asked;
static pid_t pids[MOST];
static char *heap;
static struct model *model;

static unsigned choose(unsigned of)
{
	model->state = model->state * 1103515245 + 12345;
	return (model->state >> 16) % of;
}

static void put(char *page, uint32_t value)
{
	for (int i = 0; i < PAGE; i += 512)
		memcpy(page + i, &value, sizeof value);
}

static void look(const char *page, uint32_t value, const char *what, int number)
{
	uint32_t found;

	for (int i = 0; i < PAGE; i += 512) {
		memcpy(&found, page + i, sizeof found);
		if (found != value) {
			fail("process %d: page %d of its %s has %u instead of %u", me, number, what, found, value);
			return;
		}
	}
}

static void write_run(int first, int n)
{
	for (int i = first; i < first + n; i++)
		if (model->arena[i].mapped && !model->arena[i].read_only)
			put(arena + i * PAGE, model->arena[i].value = choose(1 << 15) + 1);
}

static void map_run(int first, int n, int flags)
{
	flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	if (mmap(arena + first * PAGE, n * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED)
		cannot("mmap");
	for (int i = first; i < first + n; i++)
		model->arena[i] = (struct slot){ .mapped = 1 };
	if (choose(4))
		write_run(first, choose(n) + 1);
}

static void protect_run(int first, int n)
{
	char read_only = choose(2);

	for (int i = first; i < first + n; i++)
		if (model->arena[i].mapped) {
			if (mprotect(arena + i * PAGE, PAGE, read_only ? PROT_READ : PROT_READ | PROT_WRITE))
				cannot("mprotect");
			model->arena[i].read_only = read_only;
		}
}

static void unmap_run(int first, int n)
{
	munmap(arena + first * PAGE, n * PAGE);
	memset(model->arena + first, 0, n * sizeof(struct slot));
}

static void drop_run(int first, int n)
{
	for (int i = first; i < first + n; i++)
		if (model->arena[i].mapped && !madvise(arena + i * PAGE, PAGE, MADV_DONTNEED))
			model->arena[i].value = 0;
}

/* Page by page: a run may be of several mappings. */
static void move_run(int first, int n)
{
	int to = choose(SLOTS - n);

	for (int i = 0; i < n; i++) {
		struct slot *from = &model->arena[first + i];

		if (to + i == first + i || !from->mapped)
			continue;
		if (mremap(arena + (first + i) * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, arena + (to + i) * PAGE) ==
		    MAP_FAILED)
			cannot("mremap");
		model->arena[to + i] = *from;
		*from = (struct slot){ 0 };
	}
}

static void move_heap(void)
{
	int pages = choose(HEAP);

	if (brk(heap + pages * PAGE))
		cannot("brk");
	for (int i = model->heap_pages; i < pages; i++)
		put(heap + i * PAGE, model->heap[i] = choose(1 << 15) + 1);
	model->heap_pages = pages;
}

static void change(void)
{
	for (int step = 0; step < STEPS; step++) {
		int n = choose(LONGEST) + 1, first = choose(SLOTS - n);

		switch (choose(10)) {
		case 0: case 1: map_run(first, n, 0); break;
		case 2: map_run(first, n, MAP_NORESERVE); break;
		case 3: unmap_run(first, n); break;
		case 4: protect_run(first, n); break;
		case 5: drop_run(first, n); break;
		case 6: move_run(first, n); break;
		case 7: move_heap(); break;
		default: write_run(first, n);
		}
	}
	changes_done++;
}

static void look_at_all(void)
{
	if (changes_done != shared->changed[me])
		fail("process %d: %d changes instead of %d", me, changes_done, shared->changed[me]);
	for (int i = 0; i < SLOTS; i++)
		if (model->arena[i].mapped)
			look(arena + i * PAGE, model->arena[i].value, "arena", i);
	for (int i = 0; i < model->heap_pages; i++)
		look(heap + i * PAGE, model->heap[i], "heap", i);
}

static void work(int number)
{
	me = number;
	model = &shared->models[me];
	for (;; nap()) {
		beats[me]++;
		if (told != shared->changes) {
			told = shared->changes;
			change();
			shared->changed[me] = changes_done;
			shared->verified[me] = -told;
		}
		if (asked != shared->verifies) {
			look_at_all();
			shared->verified[me] = asked = shared->verifies;
		}
	}
}

/* What it has to do begins with the next word. */
static void fork_worker(int number)
{
	told = shared->changes;
	asked = shared->verifies;
	shared->models[number] = shared->models[0];
	shared->models[number].state += number;
	shared->changed[number] = changes_done;
	pids[number] = fork_child(work, number);
}

static void start(int argc, char **argv)
{
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		cannot("mmap");
	mallopt(M_MMAP_THRESHOLD, 0); /* the heap is ours */
	heap = sbrk(0);
	heap += -(uintptr_t)heap % PAGE;
	model = &shared->models[0];
	workers = argc > 0 ? atoi(argv[0]) : 0;
	model->state = argc > 1 ? atoi(argv[1]) : 1;
	if (brk(heap) || workers >= MOST)
		cannot("a heap");
	for (int i = 0; i < 8; i++)
		change();
	shared->changed[0] = changes_done;
	for (int i = 1; i <= workers; i++)
		fork_worker(i);
}

/* Waits until all have reached this number. */
static void await(atomic_int *numbers, int number)
{
	for (int i = 1; i <= workers; i++)
		for (int tries = 0; numbers[i] != number; tries++, nap())
			if (tries == 1000) {
				fail("process %d does not follow", i);
				return;
			}
}

static void verify(void)
{
	look_at_all();
	shared->verifies++;
	await(shared->verified, shared->verifies);
}

static int change_all(const char *word)
{
	int leaves = 1 + shared->changes % (workers ? workers : 1);

	if (strcmp(word, "change"))
		return 0;
	change();
	shared->changed[0] = changes_done;
	shared->changes++;
	await(shared->verified, -shared->changes);
	if (workers) {
		kill(pids[leaves], SIGKILL);
		waitpid(pids[leaves], NULL, 0);
		fork_worker(leaves);
	}
	return 1;
}

const struct shape changes = { "changes", "WORKERS SEED", start, NULL, verify, change_all };
