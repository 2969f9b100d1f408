/* files.c - files of all modes and flags, linked, renamed and deleted; folders; O_PATH; devices; locks. */
#include "states.h"
#include <dirent.h>
#include <sys/file.h>

enum { MOST = 20000 };

/* A new file with random contents, perhaps with a hole in front. */
static int new_file(struct object *o)
{
	char contents[MOST];
	int fd = open(new_path(o, ""), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);

	o->size = toss(o) ? draw(o, MOST) : draw(o, 100);
	fill(o, contents, o->size);
	if (fd < 0 || pwrite(fd, contents, o->size, draw(o, 3) ? 0 : 100000) != (ssize_t)o->size)
		return -1;
	return fd;
}

/* What may happen to a file that is open. */
static int change_name(struct object *o)
{
	char other[80];

	snprintf(other, sizeof other, "%s-other", o->path);
	switch (draw(o, 6)) {
	case 0: return unlink(o->path);
	case 1: return rename(o->path, other);
	case 2: return link(o->path, other) ?: unlink(o->path);
	case 3: return rename(o->path, other) ?: symlink(other, o->path);
	case 4: return unlink(o->path) ?: mkdir(o->path, 0700);
	}
	return 0;
}

static int make_file(struct object *o)
{
	static const int modes[] = { O_RDONLY, O_WRONLY, O_RDWR };
	int made = new_file(o), flags = modes[draw(o, 3)], fd;

	if (made < 0)
		return -1;
	close(made);
	if (toss(o))
		flags |= PICK(o, O_APPEND, O_NONBLOCK, O_DSYNC, O_SYNC, O_NOATIME, O_NOFOLLOW, O_APPEND | O_NONBLOCK);
	fd = keep(o, open(o->path, flags));
	if (fd < 0 || lseek(fd, draw(o, MOST), SEEK_SET) < 0)
		return -1;
	if (toss(o))
		keep(o, toss(o) ? dup(fd) : open(o->path, O_RDONLY));
	fchmod(fd, PICK(o, 0644, 0600, 0400, 0, 0222, 0755, 01644, 04711, 02755));
	return change_name(o);
}

static void tell_file(struct object *o)
{
	static char contents[MOST + 100000];

	tell_descriptors(o);
	for (int i = 0; i < o->fds; i++) {
		struct stat st = { 0 };

		fstat(o->fd[i], &st);
		tell(o, "file %d: size %ld links %d offset %ld", i, st.st_size, (int)st.st_nlink,
		     lseek(o->fd[i], 0, SEEK_CUR));
		tell_bytes(o, "contents", contents, pread(o->fd[i], contents, sizeof contents, 0));
	}
}

static int make_folder(struct object *o)
{
	char inside[80];
	int fd;

	if (mkdir(new_path(o, ""), 0755))
		return -1;
	fd = keep(o, open(o->path, O_RDONLY | O_DIRECTORY));
	snprintf(inside, sizeof inside, "%s/inside", o->path);
	if (fd < 0)
		return -1;
	switch (draw(o, 4)) {
	case 0: return rmdir(o->path);
	case 1: return mkdir(inside, PICK(o, 0700, 0755));
	case 2: return fchmod(fd, PICK(o, 0700, 0500, 01777));
	}
	return 0;
}

/* Without the names in it: a fresh container need not have those that nobody has open. */
static void tell_folder(struct object *o)
{
	struct stat st = { 0 };

	tell_descriptors(o);
	fstat(o->fd[0], &st);
	tell(o, "folder: names %d offset %ld", (int)st.st_nlink, lseek(o->fd[0], 0, SEEK_CUR));
}

static int make_path(struct object *o)
{
	int made = new_file(o), flags = O_PATH;
	char link[80];

	if (made < 0)
		return -1;
	close(made);
	snprintf(link, sizeof link, "%s-link", o->path);
	if (toss(o) && !symlink(o->path, link)) {
		strcpy(o->path, link);
		flags |= O_NOFOLLOW;
	} else if (toss(o)) {
		chmod(o->path, 0);
	}
	return keep(o, open(o->path, flags)) < 0 ? -1 : 0;
}

static int make_device(struct object *o)
{
	static const char *const names[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom" };

	return keep(o, open(names[draw(o, 5)], PICK(o, O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_NONBLOCK))) < 0 ? -1 : 0;
}

static int make_proc(struct object *o)
{
	static const char *const names[] = { "/proc/self/status", "/proc/meminfo", "/proc/self", "/proc/self/fd",
					     "/proc/self/ns/mnt", "/proc/self/ns/net", "/proc/1/stat", "/sys/kernel",
					     "/proc/self/task", "/etc/passwd", "/etc", "/" };

	return keep(o, open(names[draw(o, 12)], O_RDONLY)) < 0 ? -1 : 0;
}

static int lock(int fd, int command, struct object *o)
{
	struct flock lock = { .l_type = PICK(o, F_RDLCK, F_WRLCK), .l_start = draw(o, 100), .l_len = draw(o, 50) };

	return fcntl(fd, command, &lock);
}

static int make_lock(struct object *o)
{
	int fd = new_file(o);

	fd = keep(o, fd);
	if (fd < 0)
		return -1;
	if (!draw(o, 4))
		unlink(o->path);
	switch (draw(o, 4)) {
	case 0: return flock(fd, PICK(o, LOCK_SH, LOCK_EX));
	case 1: return lock(fd, F_OFD_SETLK, o) ?: lock(fd, F_OFD_SETLK, o);
	case 2: return lock(fd, F_SETLK, o) ?: lock(fd, F_SETLK, o) ?: lock(fd, F_SETLK, o);
	}
	close(fd);
	fd = o->fd[0] = open(o->path, O_RDONLY | O_CLOEXEC);
	return fcntl(fd, F_SETLEASE, F_RDLCK);
}

const struct kind file_kinds[] = {
	{ "file", make_file, tell_file },	{ "folder", make_folder, tell_folder },
	{ "path", make_path, tell_descriptors },	{ "device", make_device, tell_descriptors },
	{ "proc", make_proc, tell_descriptors }, { "lock", make_lock, tell_file },
	{ NULL, NULL, NULL },
};
