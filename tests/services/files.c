/*
 * files.c - the shape files: one of each kind of open file, in a folder that is writable.
 *
 *   service files DIR [KIND...]   all kinds, or those named (as in the table at the end)
 */
#include "service.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

enum { SIZE = 65536 };
static const char *dir;
static long step; /* ticks since the start */

static char *path(const char *name)
{
	static char buf[2][512];
	static int turn;

	turn = !turn;
	snprintf(buf[turn], sizeof buf[turn], "%s/%s", dir, name);
	return buf[turn];
}

static int must(int result, const char *what)
{
	if (result < 0)
		cannot(what);
	return result;
}

static char pattern(long i)
{
	return 'a' + i * 7 % 26;
}

/* Fills a file of SIZE bytes with the pattern. */
static int filled(int fd)
{
	char buf[SIZE];

	for (int i = 0; i < SIZE; i++)
		buf[i] = pattern(i);
	if (fd < 0 || write(fd, buf, SIZE) != SIZE)
		cannot("a file to write to");
	return fd;
}

static void check_filled(int fd, const char *what)
{
	char buf[SIZE];

	if (pread(fd, buf, SIZE, 0) != SIZE)
		return fail("%s: cannot be read: %s", what, strerror(errno));
	for (int i = 0; i < SIZE; i++)
		if (buf[i] != pattern(i))
			return fail("%s: byte %d has changed", what, i);
}

static void check_offset(int fd, off_t expected, const char *what)
{
	off_t now = lseek(fd, 0, SEEK_CUR);

	if (now != expected)
		fail("%s: the offset was %ld, is %ld", what, (long)expected, (long)now);
}

static int create(const char *name)
{
	return must(open(path(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640), name);
}

/* log: appended to at every tick. */
static int log_fd;
static long logged;
static void log_start(void)
{
	log_fd = must(open(path("log"), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0640), "log");
}
static void log_tick(void)
{
	if (dprintf(log_fd, "%08ld\n", ++logged) != 9)
		fail("log: cannot be written: %s", strerror(errno));
}
static void log_verify(void)
{
	FILE *f = fopen(path("log"), "r");
	long expected = 0, read;

	while (f && fscanf(f, "%ld", &read) == 1)
		if (read != ++expected)
			fail("log: line %ld says %ld", expected, read);
	if (f)
		fclose(f);
	if (expected != logged)
		fail("log: %ld lines were written, %ld are there", logged, expected);
	say("logged=%ld", logged);
}

/* data: read at an offset that moves. */
static int data_fd;
static long data_offset;
static void data_start(void)
{
	data_fd = filled(create("data"));
	lseek(data_fd, 0, SEEK_SET);
}
static void data_tick(void)
{
	char byte;

	if (read(data_fd, &byte, 1) != 1 || byte != pattern(data_offset))
		fail("data: wrong at offset %ld", data_offset);
	if (++data_offset == SIZE)
		data_offset = lseek(data_fd, 0, SEEK_SET);
}
static void data_verify(void)
{
	check_offset(data_fd, data_offset, "data");
	check_filled(data_fd, "data");
}

/* map, shm, memfd: a file that is open and mapped; the counter in it is seen both ways. */
struct mapped {
	int fd;
	long *memory;
};
static struct mapped map, shm, memfd;
static void map_file(struct mapped *m, int fd)
{
	m->fd = filled(fd);
	m->memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m->memory == MAP_FAILED)
		cannot("mmap of a file");
}
static void check_mapped(struct mapped *m, const char *what)
{
	long value = -1;

	m->memory[1000] = step;
	if (pread(m->fd, &value, sizeof value, 8000) != sizeof value || value != step)
		fail("%s: the mapping and the descriptor are not the same file", what);
	for (int i = 8008; i < SIZE; i++)
		if (((char *)m->memory)[i] != pattern(i))
			return fail("%s: byte %d has changed", what, i);
}
static void map_start(void) { map_file(&map, create("map")); }
static void map_verify(void) { check_mapped(&map, "map"); }
static void shm_start(void) { map_file(&shm, must(open("/dev/shm/service", O_RDWR | O_CREAT | O_TRUNC, 0600), "/dev/shm")); }
static void shm_verify(void) { check_mapped(&shm, "shm"); }
static void memfd_start(void) { map_file(&memfd, must(memfd_create("service", 0), "memfd_create")); }
static void memfd_verify(void) { check_mapped(&memfd, "memfd"); }

/* dup: two descriptors of one open file share an offset. twice: two opens do not. */
static int dup_fds[2], twice_fds[2];
static void dup_start(void)
{
	dup_fds[0] = filled(create("dup"));
	dup_fds[1] = must(dup(dup_fds[0]), "dup");
}
static void dup_verify(void)
{
	lseek(dup_fds[0], step % SIZE, SEEK_SET);
	check_offset(dup_fds[1], step % SIZE, "dup");
}
static void twice_start(void)
{
	twice_fds[0] = filled(create("twice"));
	twice_fds[1] = must(open(path("twice"), O_RDWR | O_CLOEXEC), "twice");
	lseek(twice_fds[1], SIZE, SEEK_SET);
}
static void twice_verify(void)
{
	lseek(twice_fds[0], 5, SEEK_SET);
	check_offset(twice_fds[1], SIZE, "twice");
	lseek(twice_fds[0], SIZE, SEEK_SET);
}

/* tmpfile, deleted: files without a name. hardlink: opened by a name that is gone, another is left. */
static int tmpfile_fd, deleted_fd, hardlink_fd;
static void tmpfile_start(void) { tmpfile_fd = filled(must(open(dir, O_RDWR | O_TMPFILE, 0600), "O_TMPFILE")); }
static void tmpfile_verify(void) { check_filled(tmpfile_fd, "tmpfile"); }
static void deleted_start(void)
{
	deleted_fd = filled(create("deleted"));
	must(unlink(path("deleted")), "unlink");
}
static void deleted_verify(void) { check_filled(deleted_fd, "deleted"); }
static void hardlink_start(void)
{
	hardlink_fd = filled(create("hardlink"));
	unlink(path("hardlink-left"));
	must(link(path("hardlink"), path("hardlink-left")), "link");
	must(unlink(path("hardlink")), "unlink");
}
static void hardlink_verify(void)
{
	struct stat open_file, named;

	check_filled(hardlink_fd, "hardlink");
	if (fstat(hardlink_fd, &open_file) || stat(path("hardlink-left"), &named) ||
	    open_file.st_ino != named.st_ino || open_file.st_nlink != 1)
		fail("hardlink: the open file is not the one with the name that is left");
}

/* folder: a directory. */
static int folder_fd;
static void folder_start(void) { folder_fd = must(open(dir, O_RDONLY | O_DIRECTORY), "the folder"); }
static void folder_verify(void)
{
	struct stat by_fd, by_name;

	if (fstat(folder_fd, &by_fd) || stat(dir, &by_name) || by_fd.st_ino != by_name.st_ino)
		fail("folder: not the same");
}

/* locks: an open file description lock, a POSIX lock and a flock, seen from a second open. */
static int ofd_fd, posix_fd, flock_fd;
static struct flock lock = { .l_type = F_WRLCK, .l_start = 10, .l_len = 20 };
static void locks_start(void)
{
	ofd_fd = filled(create("ofd"));
	must(fcntl(ofd_fd, F_OFD_SETLK, &lock), "F_OFD_SETLK");
	posix_fd = filled(create("posix"));
	must(fcntl(posix_fd, F_SETLK, &lock), "F_SETLK");
	flock_fd = filled(create("flock"));
	must(flock(flock_fd, LOCK_EX), "flock");
}
/* In a child, since closing a file here would drop this process's POSIX locks on it. */
static void check_lock(const char *name)
{
	struct flock seen = { .l_type = F_WRLCK };
	int status = 1;
	pid_t child = fork();

	if (child == 0) {
		int fd = open(path(name), O_RDWR);

		_exit(fcntl(fd, F_OFD_GETLK, &seen) || seen.l_type != F_WRLCK || seen.l_start != 10 || seen.l_len != 20);
	}
	if (waitpid(child, &status, 0) != child || status)
		fail("locks: the lock on %s is lost", name);
}
static void locks_verify(void)
{
	int other = open(path("flock"), O_RDWR);

	check_lock("ofd");
	check_lock("posix");
	if (!flock(other, LOCK_EX | LOCK_NB))
		fail("locks: the lock on flock is lost");
	close(other);
}

/* events: eventfd, epoll, signalfd and timerfd, each with something in it. */
static int event_fd, epoll_fd, signal_fd, timer_fd;
static void events_start(void)
{
	struct itimerspec every = { { 0, 10000000 }, { 0, 10000000 } };
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 4711 };
	sigset_t usr2;

	event_fd = must(eventfd(7, EFD_NONBLOCK), "eventfd");
	epoll_fd = must(epoll_create1(0), "epoll_create1");
	must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event_fd, &event), "epoll_ctl");
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	sigprocmask(SIG_BLOCK, &usr2, NULL);
	signal_fd = must(signalfd(-1, &usr2, SFD_NONBLOCK), "signalfd");
	kill(getpid(), SIGUSR2);
	timer_fd = must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
	timerfd_settime(timer_fd, 0, &every, NULL);
}
static void events_verify(void)
{
	struct signalfd_siginfo info;
	struct epoll_event event;
	uint64_t value = 0;

	if (epoll_wait(epoll_fd, &event, 1, 0) != 1 || event.data.u64 != 4711)
		fail("events: epoll has lost its eventfd");
	if (read(event_fd, &value, 8) != 8 || value != 7 || write(event_fd, &value, 8) != 8)
		fail("events: the eventfd held 7, holds %lu", value);
	if (read(signal_fd, &info, sizeof info) != sizeof info || info.ssi_signo != SIGUSR2)
		fail("events: the pending signal is lost");
	kill(getpid(), SIGUSR2);
	/* Two waits: the first may be over already, the second needs a timer that goes on. What is left of a timer that is due
	 * and has not fired yet is 0 (timerfd_get_remaining clips it), as of one that has stopped: only a wait tells them apart. */
	for (int i = 0; i < 2; i++) {
		struct pollfd due = { .fd = timer_fd, .events = POLLIN };
		if (poll(&due, 1, 10000) != 1)
			return fail("events: the timer has stopped");
		if (read(timer_fd, &value, 8) != 8)
			fail("events: the timer cannot be read");
	}
}

/* queues: a FIFO, a pipe and a socketpair with data in them. */
static int fifo_fd, pipe_fds[2], socket_fds[2];
static void queues_start(void)
{
	unlink(path("fifo"));
	must(mkfifo(path("fifo"), 0600), "mkfifo");
	fifo_fd = must(open(path("fifo"), O_RDWR), "fifo");
	must(pipe(pipe_fds), "pipe");
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, socket_fds), "socketpair");
	if (write(fifo_fd, "in the fifo", 11) + write(pipe_fds[1], "in the pipe", 11) +
	    write(socket_fds[1], "in the sock", 11) != 33)
		cannot("writing to queues");
}
/* Reads without waiting what is there, and puts it back. */
static void check_queue(int in, int out, const char *expected, const char *what)
{
	char buf[64] = "";
	int flags = fcntl(in, F_GETFL);

	fcntl(in, F_SETFL, flags | O_NONBLOCK);
	if (read(in, buf, sizeof buf - 1) < 0 || strcmp(buf, expected))
		fail("queues: %s held \"%s\", holds \"%s\"", what, expected, buf);
	fcntl(in, F_SETFL, flags);
	if (write(out, expected, strlen(expected)) < 0)
		fail("queues: %s: %s", what, strerror(errno));
}
static void queues_verify(void)
{
	check_queue(fifo_fd, fifo_fd, "in the fifo", "the fifo");
	check_queue(pipe_fds[0], pipe_fds[1], "in the pipe", "the pipe");
	check_queue(socket_fds[0], socket_fds[1], "in the sock", "the socketpair");
}

static struct kind {
	const char *name;
	void (*start)(void), (*verify)(void), (*tick)(void);
	int used;
} kinds[] = {
	{ "log", log_start, log_verify, log_tick, 0 },
	{ "data", data_start, data_verify, data_tick, 0 },
	{ "map", map_start, map_verify, NULL, 0 },
	{ "shm", shm_start, shm_verify, NULL, 0 },
	{ "memfd", memfd_start, memfd_verify, NULL, 0 },
	{ "dup", dup_start, dup_verify, NULL, 0 },
	{ "twice", twice_start, twice_verify, NULL, 0 },
	{ "tmpfile", tmpfile_start, tmpfile_verify, NULL, 0 },
	{ "deleted", deleted_start, deleted_verify, NULL, 0 },
	{ "hardlink", hardlink_start, hardlink_verify, NULL, 0 },
	{ "folder", folder_start, folder_verify, NULL, 0 },
	{ "locks", locks_start, locks_verify, NULL, 0 },
	{ "events", events_start, events_verify, NULL, 0 },
	{ "queues", queues_start, queues_verify, NULL, 0 },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void files_start(int argc, char **argv)
{
	dir = argc > 0 ? argv[0] : "/data";
	for (int i = 0; i < KINDS; i++) {
		kinds[i].used = argc < 2;
		for (int j = 1; j < argc; j++)
			kinds[i].used |= !strcmp(argv[j], kinds[i].name);
		if (kinds[i].used)
			kinds[i].start();
	}
}

static void files_tick(void)
{
	step++;
	for (int i = 0; i < KINDS; i++)
		if (kinds[i].used && kinds[i].tick)
			kinds[i].tick();
}

static void files_verify(void)
{
	int used = 0;

	for (int i = 0; i < KINDS; i++)
		if (kinds[i].used) {
			kinds[i].verify();
			used++;
		}
	say("kinds=%d", used);
}

const struct shape files = { "files", "DIR [KIND...]", files_start, files_tick, files_verify, NULL };
