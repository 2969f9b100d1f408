/*
 * writers.c - writes all of its memory again and again, up to 500 MiB a second in each thread, and knows what each page
 * holds: the value that was written there one round before. Memory of two moments shows, and so does a page that is missing.
 *
 *   writers MIB [limited]   with so much memory in each of two threads, and shared by three processes from before; limited:
 *                           two of them may start no process
 */
#include "service.h"
#include <sys/resource.h>

enum { PAGE = 4096, SMALL = 2 << 20, WORKERS = 2, TURNS = 64, PAUSE = 500 };

struct region {
	char *start;
	uint64_t pages, next; /* the pages hold the values before this one, in turn */
};

static int running;
static atomic_int sigchlds;

static void write_page(char *page, uint64_t old, uint64_t new, const char *who)
{
	uint64_t *first = (uint64_t *)page, *last = (uint64_t *)(page + PAGE) - 1;

	if (*first != old || *last != old)
		fail("%s: a page has %lu and %lu instead of %lu", who, *first, *last, old);
	*first = *last = new;
}

static void fill(struct region *region, size_t size)
{
	region->pages = region->next = size / PAGE;
	for (uint64_t i = 0; i < region->pages; i++)
		*(uint64_t *)(region->start + i * PAGE) = *((uint64_t *)(region->start + (i + 1) * PAGE) - 1) = i;
}

static void write_some(struct region *region, const char *who)
{
	for (int i = 0; i < TURNS; i++, region->next++)
		write_page(region->start + region->next % region->pages * PAGE, region->next - region->pages, region->next, who);
}

static char *map(size_t size, int flags, int fd)
{
	char *start = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (start == MAP_FAILED)
		cannot("mmap");
	return start;
}

struct job {
	struct region region;
	const char *name;
	int beat, advice, hidden; /* hidden: nobody may read it but when it is written */
};

static void *write_on(void *arg)
{
	struct job *job = arg;
	size_t size = job->region.pages * PAGE;

	for (;; beats[job->beat]++) {
		if (job->hidden && mprotect(job->region.start, size, PROT_READ | PROT_WRITE))
			fail("mprotect: %s", strerror(errno));
		write_some(&job->region, job->name);
		if (job->hidden && mprotect(job->region.start, size, PROT_NONE))
			fail("mprotect: %s", strerror(errno));
		usleep(PAUSE);
	}
	return NULL;
}

static void start_writer(const char *name, size_t size, int flags, int fd, int advice, int hidden)
{
	struct job *job = calloc(1, sizeof *job);

	*job = (struct job){ .region.start = map(size, flags, fd), .name = name, .beat = running++, .hidden = hidden };
	if (advice && madvise(job->region.start, size, advice))
		cannot("madvise");
	fill(&job->region, size);
	small_thread(write_on, job);
}

/* Pages that are dropped, and pages that take the place of others: what counts is not who wrote them, but where they are. */
static void *move_pages(void *arg)
{
	enum { HALF = 128 };
	struct region all = { .start = map(2 * HALF * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1) };
	char *upper = all.start + HALF * PAGE;
	int beat = *(int *)arg;

	for (uint64_t round = 1;; round++, beats[beat]++) {
		for (int i = 0; i < 2 * HALF; i++)
			write_page(all.start + i * PAGE, 0, round << 16 | i, "written");
		usleep(PAUSE);
		if (madvise(all.start, HALF * PAGE, MADV_DONTNEED))
			fail("madvise: %s", strerror(errno));
		for (int i = 0; i < HALF; i++)
			write_page(all.start + i * PAGE, 0, i, "dropped");
		if (mremap(upper, HALF * PAGE, HALF * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, all.start) != all.start ||
		    mmap(upper, HALF * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != upper)
			fail("mremap: %s", strerror(errno));
		for (int i = 0; i < HALF; i++)
			write_page(all.start + i * PAGE, round << 16 | (HALF + i), 0, "moved");
	}
	return NULL;
}

static void count_sigchld(int signal)
{
	(void)signal;
	sigchlds++;
}

/* Has no child: none that a wait finds, and none that ends. */
static void check_no_children(const char *who)
{
	if (waitpid(-1, NULL, __WALL | WNOHANG) != -1 || errno != ECHILD || sigchlds)
		fail("%s has a child, or got SIGCHLD %d times", who, sigchlds);
}

static struct region inherited;
static int limited;

/* Shares its memory with its parent and the others, until one of them writes. */
static void work(int beat)
{
	if (limited && setrlimit(RLIMIT_NPROC, &(struct rlimit){ 1, 1 }))
		cannot("setrlimit");
	for (;; beats[beat]++) {
		write_some(&inherited, "worker");
		check_no_children("a worker");
		usleep(PAUSE);
	}
}

/* Children that come and go, and share what the writers write. */
static void *fork_on(void *arg)
{
	int beat = *(int *)arg, status;
	pid_t pid;

	for (;; beats[beat]++) {
		pid = fork();
		if (!pid)
			_exit(7);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 7 << 8)
			fail("a child ended with %d", status);
		usleep(20000);
	}
	return NULL;
}

static void writers_start(int argc, char **argv)
{
	size_t size = (size_t)(argc ? atoi(argv[0]) : 16) << 20;
	int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
	static int moves, forks;

	limited = argc > 1;
	signal(SIGCHLD, count_sigchld);
	inherited.start = map(size, anonymous, -1);
	fill(&inherited, size);
	for (int i = 0; i < WORKERS; i++)
		fork_child(work, running++);
	start_writer("private", size, anonymous, -1, 0, 0);
	start_writer("private, too", size, anonymous, -1, 0, 0);
	start_writer("shared", SMALL, MAP_SHARED | MAP_ANONYMOUS, -1, 0, 0);
	start_writer("not inherited", SMALL, anonymous, -1, MADV_DONTFORK, 0);
	start_writer("wiped", SMALL, anonymous, -1, MADV_WIPEONFORK, 0);
	start_writer("not readable", SMALL, anonymous, -1, 0, 1);
	moves = running++;
	small_thread(move_pages, &moves);
	forks = running++;
	small_thread(fork_on, &forks);
}

static void writers_verify(void)
{
	await_beats(running);
	say("writers=%d", running);
}

const struct shape writers = { "writers", "[MIB [limited]]", writers_start, NULL, writers_verify, NULL };
