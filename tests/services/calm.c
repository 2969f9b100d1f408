/*
 * calm.c - writes little of its memory, drops and moves some, and knows for each page what it must hold. A page of an
 * earlier moment shows, as does one that is missing.
 *
 *   calm MIB   with so much memory in each of three processes, which share as much from before. The first one has, at times,
 *              two children that it has started one after the other, and writes in between
 */
#include "service.h"

enum { PAGE = 4096, WORKERS = 2, TURNS = 5, PAUSE = 20000, ALONE = 300, APART = 100, MOVING = 64 };

struct region {
	char *start;
	uint32_t pages;
	uint64_t *holds, next; /* what is in each page, 0 for one that was dropped; what is written next */
};

static struct region inherited, own;

static char *address(const struct region *region, uint32_t page)
{
	return region->start + (size_t)page * PAGE;
}

static void check_page(const struct region *region, uint32_t page)
{
	const uint64_t *at = (const uint64_t *)address(region, page), last = PAGE / 8 - 1;

	if (at[0] != region->holds[page] || at[last] != at[0])
		fail("page %u has %lu and %lu instead of %lu", page, at[0], at[last], region->holds[page]);
}

static void write_page(struct region *region, uint32_t page)
{
	uint64_t *at = (uint64_t *)address(region, page);

	check_page(region, page);
	at[0] = at[PAGE / 8 - 1] = region->holds[page] = ++region->next;
}

static void drop_page(struct region *region, uint32_t page)
{
	if (madvise(address(region, page), PAGE, MADV_DONTNEED))
		fail("madvise: %s", strerror(errno));
	region->holds[page] = 0;
	/* Reading maps the page of zeros. */
	check_page(region, page);
}

static void move_mapping(char *from, char *to)
{
	if (mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		fail("mremap: %s", strerror(errno));
}

/* A page that takes the place of the next one, written or not since a copy was made. */
static void move_page(struct region *region, uint32_t page)
{
	char *from = address(region, page), *to = address(region, page + 1);

	move_mapping(from, to);
	if (mmap(from, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != from)
		fail("mmap: %s", strerror(errno));
	region->holds[page + 1] = region->holds[page];
	region->holds[page] = 0;
}

/* Each takes the other's place, which a copy has, too. */
static void swap_pages(struct region *region, uint32_t page, uint32_t other)
{
	char *one = address(region, page), *two = address(region, other);
	char *spare = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t holds = region->holds[page];

	if (spare == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	move_mapping(one, spare);
	move_mapping(two, one);
	move_mapping(spare, two);
	region->holds[page] = region->holds[other];
	region->holds[other] = holds;
}

static void make(struct region *region, size_t size)
{
	region->pages = size / PAGE;
	region->start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region->holds = calloc(region->pages, sizeof *region->holds);
	if (region->start == MAP_FAILED || !region->holds)
		cannot("mmap");
	for (uint32_t page = 0; page < region->pages; page++)
		write_page(region, page);
}

static void write_some(struct region *region, unsigned *seed)
{
	for (int i = 0; i < TURNS; i++) {
		uint32_t page = rand_r(seed) % region->pages;

		if (i == 0)
			drop_page(region, page);
		else if (i == 1)
			move_page(region, page % MOVING);
		else if (i == 2)
			swap_pages(region, page % MOVING, (page + 1 + rand_r(seed) % (MOVING - 1)) % MOVING);
		else
			write_page(region, page);
	}
}

static void check(const struct region *region)
{
	for (uint32_t page = 0; page < region->pages; page++)
		check_page(region, page);
}

/* Looks at all of it in turn, so that a page that nobody writes shows as well. */
static void write_on(int beat, unsigned seed)
{
	for (;; beats[beat]++) {
		for (int i = 0; i < 16; i++) {
			write_some(&own, &seed);
			write_some(&inherited, &seed);
			usleep(PAUSE);
		}
		check(&own);
		check(&inherited);
	}
}

static void work(int beat)
{
	make(&own, (size_t)own.pages * PAGE);
	write_on(beat, beat + 1);
}

static pid_t start_child(void)
{
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	return child;
}

static void end_child(pid_t child)
{
	int status;

	if (kill(child, SIGKILL) || waitpid(child, &status, 0) != child)
		fail("a child has gone: %s", strerror(errno));
}

/*
 * Children that were started one after the other have different pages of the first process, which has others by now. At
 * times there are none, so that a copy is made of pages that nobody else has.
 */
static void *start_children(void *arg)
{
	pid_t first, second;

	(void)arg;
	for (;;) {
		usleep(ALONE * 1000);
		first = start_child();
		usleep(APART * 1000);
		second = start_child();
		usleep(ALONE * 1000);
		end_child(first);
		end_child(second);
	}
	return NULL;
}

static void *write_first(void *arg)
{
	write_on(*(int *)arg, 1);
	return NULL;
}

static void calm_start(int argc, char **argv)
{
	size_t size = (size_t)(argc ? atoi(argv[0]) : 8) << 20;
	static int beat;

	make(&inherited, size);
	own.pages = size / PAGE;
	for (int i = 1; i <= WORKERS; i++)
		fork_child(work, i);
	make(&own, size);
	small_thread(write_first, &beat);
	small_thread(start_children, NULL);
}

static void calm_verify(void)
{
	await_beats(WORKERS + 1);
	say("writers=%d", WORKERS + 1);
}

const struct shape calm = { "calm", "[MIB]", calm_start, NULL, calm_verify, NULL };
