/* holds_volumes.c - files of /config, a volume that somebody else fills and updates, as Kubernetes does with a ConfigMap; and a library of the image. */
#include "holds.h"
#include <sys/inotify.h>

static int fd, watch;
static const char *private, *shared;

/* The first word of a text. */
static const char *word(const char *text, char *into)
{
	snprintf(into, 16, "%.*s", (int)strcspn(text, " \n"), text);
	return into;
}

static void config_hold(void)
{
	fd = had(open("/config/key", O_RDONLY), "/config/key");
	private = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	shared = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (private == MAP_FAILED || shared == MAP_FAILED)
		cannot("mmap");
	had(chdir("/config/..data"), "chdir");
	watch = had(inotify_init1(IN_NONBLOCK), "inotify_init1");
	had(inotify_add_watch(watch, "/config/key", IN_MODIFY), "inotify_add_watch");
}

/* What it finds by everything that it has, and what it was told since it looked last. */
static void config_check(void)
{
	char text[64] = "", here[64] = "", words[4][16], event[512];
	int cwd = open("key", O_RDONLY);

	if (pread(fd, text, sizeof text - 1, 0) < 0)
		fail("the open file cannot be read");
	if (cwd < 0 || pread(cwd, here, sizeof here - 1, 0) < 0)
		snprintf(here, sizeof here, "gone");
	close(cwd);
	say("open=%s private=%s shared=%s cwd=%s", word(text, words[0]), word(private, words[1]), word(shared, words[2]),
	    word(here, words[3]));
	say("told=%d", read(watch, event, sizeof event) > 0);
}

/* Only open, so that nothing else keeps the file when it is replaced. */
static void config_open_hold(void)
{
	fd = had(open("/config/key", O_RDONLY), "/config/key");
	had(chdir("/config/..data"), "chdir");
}

static void config_open_check(void)
{
	char text[64] = "", found[16], at[4096] = "";

	if (pread(fd, text, sizeof text - 1, 0) < 0)
		fail("the open file cannot be read");
	say("open=%s cwd=%s", word(text, found), getcwd(at, sizeof at) ? at : "gone");
}

/* A file that it has made, and the folder, of which it wants to know everything. */
static void volume_watch_hold(void)
{
	fd = had(open("/volume/file", O_CREAT | O_RDWR | O_APPEND, 0600), "/volume/file");
	had(write(fd, "content", 7), "write");
	watch = had(inotify_init1(IN_NONBLOCK), "inotify_init1");
	had(inotify_add_watch(watch, "/volume", IN_ALL_EVENTS), "inotify_add_watch");
}

static void volume_watch_check(void)
{
	char event[8192];
	struct inotify_event *first = (void *)event;
	ssize_t n = read(watch, event, sizeof event);

	say("told=%s", n <= 0 ? "nothing" : first->len ? first->name : "itself");
}

static void library_hold(void)
{
	fd = had(open("/app/library", O_RDONLY), "/app/library");
	private = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	if (private == MAP_FAILED)
		cannot("mmap");
	close(fd);
}

static void library_check(void)
{
	char found[16];

	say("library=%s", word(private, found));
}

/* As git and package managers lock a file: others may only read it. */
static void lock_hold(void)
{
	fd = had(open("/volume/lock", O_RDWR | O_CREAT, 0444), "/volume/lock");
}

static void lock_check(void)
{
	if (pwrite(fd, "locked\n", 7, 0) != 7)
		fail("the lock cannot be written: %s", strerror(errno));
}

const struct object volume_objects[] = {
	{ "volume-lock", lock_hold, lock_check },
	{ "library", library_hold, library_check },
	{ "config", config_hold, config_check },
	{ "config-open", config_open_hold, config_open_check },
	{ "volume-watch", volume_watch_hold, volume_watch_check },
	{ 0 },
};
