/* holds_modes.c - objects that are open for what their mode does not allow by now. */
#include "holds.h"
#include <sys/inotify.h>
#include <sys/stat.h>

enum { SIZE = 1 << 20, PAGE = 4096 };
static int fd, other = -1;
static mode_t mode;
static char *memory;
static const char text[] = "what was written";

static void set_mode(mode_t now)
{
	mode = now;
	had(fchmod(fd, now), "fchmod");
}

static void check_mode(void)
{
	struct stat st;

	if (fstat(fd, &st) || (st.st_mode & 07777) != mode)
		fail("the mode was %o, is %o", mode, st.st_mode & 07777);
}

/* Something at both ends of each, and nothing between. */
static void fill_file(void)
{
	if (write(fd, text, sizeof text) != sizeof text || pwrite(fd, text, sizeof text, SIZE - PAGE) != sizeof text)
		cannot("write");
}

static void check_file(int from)
{
	char now[sizeof text];
	struct stat st;

	for (long at = 0; at < SIZE; at += SIZE - PAGE)
		if (pread(from, now, sizeof now, at) != sizeof now || memcmp(now, text, sizeof text))
			fail("the content has changed at %ld: %s", at, strerror(errno));
	if (fstat(from, &st) || st.st_blocks * 512 > SIZE / 2)
		fail("the file has no hole any more");
}

static void check_offset(void)
{
	if (lseek(fd, 0, SEEK_CUR) != (off_t)sizeof text)
		fail("the offset has changed");
}

/* It can still be written, and be read. */
static void both_check(void)
{
	check_mode();
	check_offset();
	check_file(fd);
	if (pwrite(fd, text, 1, 0) != 1)
		fail("it cannot be written: %s", strerror(errno));
}

/* What only its owner can read, by another mode. */
static void write_only_check(void)
{
	char path[64];
	int reader;

	check_mode();
	check_offset();
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	fchmod(fd, 0400);
	reader = open(path, O_RDONLY);
	fchmod(fd, mode);
	check_file(reader);
	close(reader);
	if (pwrite(fd, text, 1, 0) != 1)
		fail("it cannot be written: %s", strerror(errno));
}

static void made(const char *path, int flags, mode_t first, mode_t then)
{
	umask(0);
	fd = had(open(path, O_CREAT | flags, first), path);
	fill_file();
	set_mode(then);
}

/* As git, rsync and install do. */
static void read_only_hold(void)
{
	made("/tmp/pack", O_RDWR, 0444, 0444);
}

static void none_hold(void)
{
	made("/tmp/none", O_RDWR, 0600, 0);
}

static void none_shm_hold(void)
{
	made("/dev/shm/none", O_RDWR, 0600, 0);
}

static void write_only_hold(void)
{
	made("/tmp/write-only", O_WRONLY, 0600, 0);
}

static void set_id_hold(void)
{
	made("/tmp/set-id", O_RDWR, 0600, 06055);
}

static void ghost_hold(void)
{
	made("/tmp/ghost", O_RDWR, 0600, 0);
	unlink("/tmp/ghost");
}

static void ghost_write_only_hold(void)
{
	made("/tmp/ghost", O_WRONLY, 0600, 0);
	unlink("/tmp/ghost");
}

static void ghost_small_hold(void)
{
	umask(0);
	fd = had(open("/tmp/ghost", O_CREAT | O_RDWR, 0600), "ghost");
	if (write(fd, text, sizeof text) != sizeof text)
		cannot("write");
	set_mode(0);
	unlink("/tmp/ghost");
}

static void ghost_small_check(void)
{
	char now[sizeof text];

	check_mode();
	check_offset();
	if (pread(fd, now, sizeof now, 0) != sizeof now || memcmp(now, text, sizeof text))
		fail("the content has changed");
}

/* Several that have opened it, each by itself. */
static void child_of_several(int arg)
{
	(void)arg;
	for (;;) {
		char byte;

		if (pread(other, &byte, 1, 0) == 1)
			beats[0]++;
		nap();
	}
}

static void several_hold(void)
{
	umask(0);
	fd = had(open("/tmp/several", O_CREAT | O_RDWR, 0600), "several");
	fill_file();
	for (int i = 0; i < 4; i++) {
		other = had(open("/tmp/several", O_RDWR), "several");
		fork_child(child_of_several, 0);
		close(other);
	}
	set_mode(0);
}

static void mapped_hold(void)
{
	made("/tmp/mapped", O_RDWR, 0600, 0600);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		cannot("mmap");
	set_mode(0);
	close(fd);
}

static void mapped_check(void)
{
	struct stat st;

	if (stat("/tmp/mapped", &st) || (st.st_mode & 07777) != mode)
		fail("the mode was %o, is %o", mode, st.st_mode & 07777);
	if (memcmp(memory, text, sizeof text))
		fail("the memory has changed");
	memory[SIZE / 2] = 1;
	chmod("/tmp/mapped", 0400);
	fd = open("/tmp/mapped", O_RDONLY);
	if (pread(fd, &st, 1, SIZE / 2) != 1 || *(char *)&st != 1)
		fail("the memory is not the file any more");
	close(fd);
	chmod("/tmp/mapped", mode);
}

static void ghost_mapped_hold(void)
{
	mapped_hold();
	had(chmod("/tmp/mapped", 0600), "chmod");
	fd = had(open("/tmp/mapped", O_RDWR), "mapped");
	lseek(fd, sizeof text, SEEK_SET);
	set_mode(0);
	unlink("/tmp/mapped");
}

static void ghost_mapped_check(void)
{
	char byte;

	check_mode();
	check_offset();
	memory[SIZE / 2]++;
	if (pread(fd, &byte, 1, SIZE / 2) != 1 || byte != memory[SIZE / 2] || memcmp(memory, text, sizeof text))
		fail("the memory is not the file any more");
}

static void memfd_hold(void)
{
	char path[64];

	fd = had(memfd_create("mode", MFD_CLOEXEC), "memfd_create");
	had(ftruncate(fd, SIZE), "ftruncate");
	fill_file();
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	other = had(open(path, O_RDONLY), "memfd");
	set_mode(0);
}

static void memfd_check(void)
{
	both_check();
	check_file(other);
	if (write(other, "w", 1) >= 0)
		fail("it can be written through what was opened for reading");
}

static void fifo_hold(void)
{
	umask(0);
	had(mkfifo("/tmp/fifo", 0600), "mkfifo");
	fd = had(open("/tmp/fifo", O_RDWR), "fifo");
	if (write(fd, text, sizeof text) != sizeof text)
		cannot("write");
	set_mode(0);
}

static void fifo_check(void)
{
	char now[sizeof text];

	check_mode();
	if (read(fd, now, sizeof now) != sizeof now || memcmp(now, text, sizeof text) ||
	    write(fd, text, sizeof text) != sizeof text)
		fail("the pipe has changed");
}

/* As databases read and write, past the page cache: whole blocks, at whole blocks of memory. */
static char *block(void)
{
	static char blocks[2 * PAGE];

	return blocks + PAGE - (unsigned long)blocks % PAGE;
}

static void direct_hold(void)
{
	umask(0);
	fd = had(open("/tmp/direct", O_CREAT | O_RDWR | O_DIRECT, 0600), "direct");
	memset(block(), 'd', PAGE);
	if (write(fd, block(), PAGE) != PAGE)
		cannot("write");
	had(ftruncate(fd, PAGE + 100), "ftruncate");
	set_mode(0);
	unlink("/tmp/direct");
}

static void direct_check(void)
{
	struct stat st;

	check_mode();
	memset(block(), 0, PAGE);
	if (pread(fd, block(), PAGE, 0) != PAGE || block()[0] != 'd' || block()[PAGE - 1] != 'd')
		fail("the content has changed");
	if (fstat(fd, &st) || st.st_size != PAGE + 100)
		fail("the size has changed");
}

static void folder_hold(void)
{
	had(mkdir("/tmp/folder", 0700), "mkdir");
	fd = had(open("/tmp/folder", O_RDONLY | O_DIRECTORY), "folder");
	set_mode(0);
}

static void watch(unsigned mask)
{
	close(had(open("/tmp/watched", O_CREAT | O_RDWR, 0600), "watched"));
	fd = had(inotify_init1(IN_NONBLOCK), "inotify_init1");
	had(inotify_add_watch(fd, "/tmp/watched", mask), "inotify_add_watch");
	had(chmod("/tmp/watched", 0), "chmod");
}

static void watched_hold(void)
{
	watch(IN_DELETE_SELF);
}

/* As tail -F watches: each change of the mode is an event. */
static void watched_mode_hold(void)
{
	char event[512];

	watch(IN_DELETE_SELF | IN_ATTRIB);
	had(read(fd, event, sizeof event), "event");
}

static void watched_check(void)
{
	struct stat st;
	char event[512];

	if (stat("/tmp/watched", &st) || st.st_mode & 07777)
		fail("the mode was 0, is %o", st.st_mode & 07777);
	if (read(fd, event, sizeof event) >= 0 || errno != EAGAIN)
		fail("there is an event");
}

const struct object mode_objects[] = {
	{ "mode-read-only", read_only_hold, both_check },
	{ "mode-none", none_hold, both_check },
	{ "mode-none-shm", none_shm_hold, both_check },
	{ "mode-write-only", write_only_hold, write_only_check },
	{ "mode-set-id", set_id_hold, check_mode },
	{ "mode-ghost", ghost_hold, both_check },
	{ "mode-ghost-small", ghost_small_hold, ghost_small_check },
	{ "mode-ghost-write-only", ghost_write_only_hold, write_only_check },
	{ "mode-ghost-direct", direct_hold, direct_check },
	{ "mode-several", several_hold, both_check },
	{ "mode-mapped", mapped_hold, mapped_check },
	{ "mode-ghost-mapped", ghost_mapped_hold, ghost_mapped_check },
	{ "mode-memfd", memfd_hold, memfd_check },
	{ "mode-fifo", fifo_hold, fifo_check },
	{ "mode-folder", folder_hold, check_mode },
	{ "mode-watched", watched_hold, watched_check },
	{ "mode-watched-mode", watched_mode_hold, watched_check },
	{ 0 },
};
