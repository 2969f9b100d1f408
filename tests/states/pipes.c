/* pipes.c - pipes and fifos, with data, of other sizes, and without one of their ends. */
#include "states.h"
#include <sys/ioctl.h>

static int put_data(struct object *o, int fd)
{
	char data[4096];
	size_t size = draw(o, sizeof data);

	fill(o, data, size);
	return toss(o) && write(fd, data, size) < 0 ? -1 : 0;
}

static int make_pipe(struct object *o)
{
	int ends[2];

	if (pipe2(ends, PICK(o, 0, O_CLOEXEC, O_NONBLOCK)))
		return -1;
	if (toss(o))
		fcntl(ends[1], F_SETPIPE_SZ, PICK(o, 4096, 8192, 131072));
	put_data(o, ends[1]);
	if (!draw(o, 5)) /* no writers */
		close(ends[1]);
	else if (keep(o, ends[1]) < 0)
		return -1;
	if (!draw(o, 5)) /* no readers */
		close(ends[0]);
	else if (o->note[0] = keep(o, ends[0]) >= 0, !o->note[0])
		return -1;
	if (o->fds && toss(o))
		keep(o, dup(o->fd[0]));
	return 0;
}

static int make_fifo(struct object *o)
{
	int fd;

	if (mkfifo(new_path(o, ""), 0644))
		return -1;
	fd = keep(o, open(o->path, O_RDWR | (toss(o) ? O_NONBLOCK : 0)));
	if (fd < 0)
		return -1;
	o->note[0] = true;
	put_data(o, fd);
	if (toss(o))
		keep(o, open(o->path, PICK(o, O_RDONLY, O_WRONLY)));
	return draw(o, 3) ? 0 : unlink(o->path);
}

static void tell_pipe(struct object *o)
{
	tell_descriptors(o);
	for (int i = 0; i < o->fds; i++) {
		struct stat st = { 0 };
		int unread = -1;

		fstat(o->fd[i], &st);
		tell(o, "pipe %d: owner %d, names %d", i, fcntl(o->fd[i], F_GETOWN), (int)st.st_nlink);
		if (!o->note[0]) /* what nobody can read is not carried, nor is its room */
			continue;
		ioctl(o->fd[i], FIONREAD, &unread);
		tell(o, "pipe %d: %d unread, room %d", i, unread, fcntl(o->fd[i], F_GETPIPE_SZ));
	}
	if (o->fds) { /* tee(2) copies without reading */
		char data[8192];
		int copy[2], readable = -1;

		for (int i = 0; i < o->fds; i++)
			if ((fcntl(o->fd[i], F_GETFL) & O_ACCMODE) != O_WRONLY)
				readable = o->fd[i];
		if (readable < 0 || pipe2(copy, O_CLOEXEC | O_NONBLOCK))
			return;
		if (tee(readable, copy[1], sizeof data, SPLICE_F_NONBLOCK) > 0)
			tell_bytes(o, "data", data, read(copy[0], data, sizeof data));
		close(copy[0]);
		close(copy[1]);
	}
}

const struct kind pipe_kinds[] = {
	{ "pipe", make_pipe, tell_pipe }, { "fifo", make_fifo, tell_pipe }, { NULL, NULL, NULL }
};
