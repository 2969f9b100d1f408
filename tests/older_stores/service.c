/*
 * service - the service of the stores that are kept here. It needs no C library and no register beyond the
 * general ones, so every x86-64 host can run it, and the program stays small enough to be kept as it is.
 *
 * It has two processes, a pipe each way, a listening socket, memory, a file of its container (/tmp/kept/file, with
 * a hard link and a symbolic link) and one of a volume (/volume/log). It answers each line on 127.0.0.1:7000 with
 * "ok ticks=N lines=N", or with what is lost. Each answer is one more line in both files.
 */
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/in.h>
#include <linux/poll.h>
#include <linux/stat.h>

enum { PAGE = 4096, MEMORY = 64 * PAGE, LINE = 8, TICK_MS = 10, SIGCHLD = 17, SOCK_STREAM = 1, AF_INET = 2 };

static unsigned char memory[MEMORY];
static int listener, to_child[2], from_child[2], files[2];
static long ticks, lines;

static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = 0;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

static long must(long result)
{
	if (result < 0)
		call(__NR_exit_group, 100 - result, 0, 0, 0);
	return result;
}

static void fill(void)
{
	unsigned long noise = 88172645463325252UL; /* xorshift */

	for (int i = 0; i < MEMORY; i++) {
		noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
		memory[i] = i / PAGE % 2 ? noise : (unsigned long)i / PAGE;
	}
}

static unsigned long sum(void)
{
	unsigned long sum = 14695981039346656037UL; /* FNV-1a */

	for (int i = 0; i < MEMORY; i++)
		sum = (sum ^ memory[i]) * 1099511628211UL;
	return sum;
}

/* Adds one to each number that it is sent. */
static void child(void)
{
	long number;

	while (call(__NR_read, to_child[0], (long)&number, sizeof number, 0) == sizeof number) {
		number++;
		must(call(__NR_write, from_child[1], (long)&number, sizeof number, 0));
	}
	call(__NR_exit_group, 0, 0, 0, 0);
}

/* Whether the child adds one to `number`. */
static int child_answers(long number)
{
	long answer = 0;

	call(__NR_write, to_child[1], (long)&number, sizeof number, 0);
	call(__NR_read, from_child[0], (long)&answer, sizeof answer, 0);
	return answer == number + 1;
}

static char *digits(char *at, long number)
{
	char text[20];
	int n = 0;

	do
		text[n++] = '0' + number % 10;
	while (number /= 10);
	while (n)
		*at++ = text[--n];
	return at;
}

static char *word(char *at, const char *text)
{
	while (*text)
		*at++ = *text++;
	return at;
}

static const char *lost(unsigned long whole)
{
	if (sum() != whole)
		return "the memory has changed";
	if (!child_answers(ticks))
		return "the child does not answer";
	for (int i = 0; i < 2; i++)
		if (call(__NR_lseek, files[i], 0, 1, 0) != lines * LINE || call(__NR_lseek, files[i], 0, 2, 0) != lines * LINE)
			return "a file is not as long as what was written";
	return 0;
}

static void answer(int client, unsigned long whole)
{
	char text[128], *at;
	const char *what = lost(whole);

	if (call(__NR_read, client, (long)text, sizeof text, 0) <= 0)
		return;
	if (what) {
		at = word(word(text, "error "), what);
	} else {
		for (int i = 0; i < 2; i++)
			must(call(__NR_write, files[i], (long)"a line\n", LINE, 0));
		lines++;
		at = digits(word(digits(word(text, "ok ticks="), ticks), " lines="), lines);
	}
	at = word(at, "\n");
	call(__NR_write, client, (long)text, at - text, 0);
}

static void prepare(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = __builtin_bswap16(7000) };

	fill();
	address.sin_addr.s_addr = __builtin_bswap32(0x7f000001);
	listener = must(call(__NR_socket, AF_INET, SOCK_STREAM, 0, 0));
	must(call(__NR_bind, listener, (long)&address, sizeof address, 0));
	must(call(__NR_listen, listener, 8, 0, 0));
	must(call(__NR_mkdir, (long)"/tmp/kept", 0750, 0, 0));
	files[0] = must(call(__NR_open, (long)"/tmp/kept/file", O_CREAT | O_RDWR | O_APPEND, 0640, 0));
	must(call(__NR_link, (long)"/tmp/kept/file", (long)"/tmp/kept/link", 0, 0));
	must(call(__NR_symlink, (long)"file", (long)"/tmp/kept/symlink", 0, 0));
	files[1] = must(call(__NR_open, (long)"/volume/log", O_CREAT | O_RDWR | O_APPEND, 0640, 0));
	must(call(__NR_pipe, (long)to_child, 0, 0, 0));
	must(call(__NR_pipe, (long)from_child, 0, 0, 0));
	if (must(call(__NR_fork, 0, 0, 0, 0)) == 0)
		child();
}

void _start(void)
{
	unsigned long whole;

	prepare();
	whole = sum();
	for (;; ticks++) {
		struct pollfd ready = { listener, POLLIN, 0 };

		if (call(__NR_poll, (long)&ready, 1, TICK_MS, 0) > 0) {
			int client = call(__NR_accept, listener, 0, 0, 0);

			answer(client, whole);
			call(__NR_close, client, 0, 0, 0);
		}
	}
}
