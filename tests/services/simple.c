/* simple.c - shapes of one process: one, big, signals, iouring. */
#include "service.h"
#include <stdarg.h>
#include <sys/syscall.h>

/* one: numbered lines on stdout and stderr, so that a missing or doubled one shows; some heap. */

enum { BLOCKS = 64, BLOCK = 16384 };
static unsigned char *blocks[BLOCKS];
static uint64_t block_sums[BLOCKS];
static long lines;

static void line(int fd, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (vdprintf(fd, format, args) < 0)
		fail("descriptor %d: %s", fd, strerror(errno));
	va_end(args);
}

static void one_start(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = malloc(BLOCK);
		for (int j = 0; j < BLOCK; j++)
			blocks[i][j] = i * 31 + j * 7;
		block_sums[i] = checksum(blocks[i], BLOCK);
	}
}

static void one_tick(void)
{
	line(1, "tick %ld\n", ++lines);
	if (lines % 10 == 0)
		line(2, "tock %ld\n", lines);
}

static void one_verify(void)
{
	for (int i = 0; i < BLOCKS; i++)
		if (checksum(blocks[i], BLOCK) != block_sums[i])
			fail("block %d of the heap has changed", i);
	say("lines=%ld", lines);
}

const struct shape one = { "one", "", one_start, one_tick, one_verify, NULL };

/* big: memory of a given size, a third each of zeros, text and noise. */

static unsigned char *heap;
static size_t heap_size;
static uint64_t heap_sum;

static void big_start(int argc, char **argv)
{
	static const char text[] = "Everything that was written here must be read here again. ";
	uint64_t noise = 88172645463325252U;

	heap_size = (size_t)(argc > 0 ? atoi(argv[0]) : 64) << 20;
	heap = mmap(NULL, heap_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (heap == MAP_FAILED)
		cannot("mmap");
	memset(heap, 0, heap_size / 3);
	for (size_t i = heap_size / 3; i < heap_size / 3 * 2; i++)
		heap[i] = text[i % (sizeof text - 1)];
	for (size_t i = heap_size / 3 * 2; i < heap_size; i++) {
		noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17; /* xorshift */
		heap[i] = noise;
	}
	heap_sum = checksum(heap, heap_size);
}

static void big_verify(void)
{
	if (checksum(heap, heap_size) != heap_sum)
		fail("the memory has changed");
	say("mib=%zu", heap_size >> 20);
}

const struct shape big = { "big", "MIB", big_start, NULL, big_verify, NULL };

/* signals: counts each signal that can be caught; one more stays blocked and pending. */

static atomic_long caught[65];

static void catch(int number)
{
	caught[number]++;
}

static void signals_start(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = catch, .sa_flags = SA_RESTART };
	sigset_t blocked;

	(void)argc, (void)argv;
	for (int i = 1; i < SIGRTMAX; i++)
		sigaction(i, &action, NULL); /* refused for KILL, STOP and those of the C library */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMAX);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	sigqueue(getpid(), SIGRTMAX, (union sigval){ .sival_int = 42 });
}

/* Takes the pending signal, looks at the value that came with it, and puts it back. */
static void signals_verify(void)
{
	siginfo_t info;
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMAX);
	if (sigtimedwait(&blocked, &info, &(struct timespec){ 0 }) != SIGRTMAX || info.si_int != 42)
		fail("the pending signal is lost");
	else
		sigqueue(getpid(), SIGRTMAX, info.si_value);
	for (int i = 1; i < SIGRTMAX; i++)
		if (caught[i] && i < SIGRTMIN)
			say("%s=%ld", sigabbrev_np(i), caught[i]);
		else if (caught[i])
			say("RTMIN+%d=%ld", i - SIGRTMIN, caught[i]);
}

const struct shape signals = { "signals", "", signals_start, NULL, signals_verify, NULL };

/* iouring: holds a ring, which CRIU cannot dump; filtered by Docker's default profile. */

static int ring;

static void iouring_start(int argc, char **argv)
{
	char parameters[120] = { 0 }; /* struct io_uring_params */

	(void)argc, (void)argv;
	ring = syscall(SYS_io_uring_setup, 4, parameters);
	if (ring < 0)
		cannot("io_uring_setup");
}

static void iouring_verify(void)
{
	if (fcntl(ring, F_GETFD) < 0)
		fail("the ring is lost");
}

const struct shape iouring = { "iouring", "", iouring_start, NULL, iouring_verify, NULL };
