/* sockets.c - the shape that has unix sockets whose files are not where they were bound. */
#include "service.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { MOST = 64, LENGTH = 200 };

static struct bound {
	int fd, kind;
	char first[LENGTH];  /* what it was bound to, as getsockname() tells it */
	char now[2][LENGTH]; /* where its file is */
	const char *at;	     /* the folder of a relative name */
} all[MOST];
static int count, client, accepted, orphan, its_client;
static char folder[64];

static int had(int fd, const char *what)
{
	if (fd < 0)
		cannot(what);
	return fd;
}

static socklen_t named(struct sockaddr_un *addr, const char *path)
{
	memset(addr, 0, sizeof *addr);
	addr->sun_family = AF_UNIX;
	memcpy(addr->sun_path, path, strnlen(path, sizeof addr->sun_path));
	return sizeof *addr;
}

static const char *in_folder(const char *name)
{
	static char paths[4][LENGTH];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, LENGTH, "%s/%s", folder, name);
	return path;
}

static struct bound *bound(int kind, const char *first)
{
	struct bound *b = &all[count++];
	struct sockaddr_un addr;

	b->kind = kind;
	strcpy(b->first, first);
	b->fd = had(socket(AF_UNIX, kind | SOCK_CLOEXEC, 0), "socket");
	had(bind(b->fd, (void *)&addr, named(&addr, first)), first);
	if (kind != SOCK_DGRAM)
		had(listen(b->fd, 8), "listen");
	return b;
}

static void renamed(int kind, const char *first, const char *now)
{
	struct bound *b = bound(kind, first);

	strcpy(b->now[0], now);
	had(rename(first, now), now);
}

static void hold(void)
{
	char full[LENGTH], other[LENGTH];
	struct sockaddr_un addr;
	struct bound *b;

	had(mkdir(in_folder("sub folder"), 0755), "mkdir");
	had(symlink("sub folder", in_folder("link")), "symlink");
	renamed(SOCK_STREAM, in_folder("renamed.tmp"), in_folder("renamed"));
	renamed(SOCK_SEQPACKET, in_folder("packets.tmp"), in_folder("packets"));
	renamed(SOCK_DGRAM, in_folder("datagrams.tmp"), in_folder("datagrams"));
	renamed(SOCK_STREAM, in_folder("moved.tmp"), in_folder("sub folder/two\nlines and \xff\xfe"));
	renamed(SOCK_STREAM, in_folder("link/linked.tmp"), in_folder("link/linked"));

	b = bound(SOCK_STREAM, in_folder("linked one"));
	strcpy(b->now[0], b->first);
	strcpy(b->now[1], in_folder("linked two"));
	had(link(b->first, b->now[1]), "link");

	b = bound(SOCK_STREAM, in_folder("unlinked"));
	had(unlink(b->first), "unlink");
	b = bound(SOCK_DGRAM, in_folder("unlinked too"));
	had(unlink(b->first), "unlink");

	/* As at a reload: the name of the first one belongs to the second. */
	bound(SOCK_STREAM, in_folder("reloaded"));
	renamed(SOCK_STREAM, in_folder("reloaded.tmp"), in_folder("reloaded"));

	/* The first name belongs to a file now, which travels as it is open. It stays there, so the socket gets another name. */
	renamed(SOCK_STREAM, in_folder("file"), in_folder("was at file"));
	all[count - 1].first[0] = '\0';
	had(open(in_folder("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0644), "file");

	had(mkdir(in_folder("gone"), 0755), "mkdir");
	renamed(SOCK_STREAM, in_folder("gone/socket"), in_folder("from gone"));
	had(rmdir(in_folder("gone")), "rmdir");

	had(chdir(folder), "chdir");
	b = bound(SOCK_STREAM, "relative");
	strcpy(b->now[0], in_folder("relative"));
	b = bound(SOCK_STREAM, "relative.tmp");
	strcpy(b->now[0], in_folder("relative two"));
	had(rename("relative.tmp", "relative two"), "rename");
	had(chdir("/"), "chdir");

	/* As long as a name can be: there is no zero byte behind it. */
	memset(full, 'x', sizeof full);
	memcpy(full, in_folder(""), strlen(in_folder("")));
	full[sizeof addr.sun_path] = '\0';
	b = bound(SOCK_STREAM, full);
	strcpy(b->now[0], full);

	/* A client that is bound itself. */
	snprintf(other, sizeof other, "%s", in_folder("client.tmp"));
	client = had(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	had(bind(client, (void *)&addr, named(&addr, other)), other);
	had(rename(other, in_folder("client")), "rename");
	had(connect(client, (void *)&addr, named(&addr, in_folder("renamed"))), "connect");
	accepted = had(accept4(all[0].fd, NULL, NULL, SOCK_CLOEXEC), "accept");
}

static socklen_t abstract(struct sockaddr_un *addr)
{
	static const char name[] = "\0holds a listener that is closed";

	memset(addr, 0, sizeof *addr);
	addr->sun_family = AF_UNIX;
	memcpy(addr->sun_path, name, sizeof name);
	return offsetof(struct sockaddr_un, sun_path) + sizeof name;
}

static int listen_abstract(void)
{
	struct sockaddr_un addr;
	int fd = had(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	if (bind(fd, (void *)&addr, abstract(&addr)) || listen(fd, 1)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A connection whose listener is closed: it has an abstract name that is free. */
static void hold_orphan(void)
{
	int listener = had(listen_abstract(), "abstract name");
	struct sockaddr_un addr;

	its_client = had(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	had(connect(its_client, (void *)&addr, abstract(&addr)), "connect");
	orphan = had(accept4(listener, NULL, NULL, SOCK_CLOEXEC), "accept");
	close(listener);
}

static void check_orphan(void)
{
	int listener = listen_abstract();
	char byte;

	if (listener < 0)
		fail("the abstract name is taken: %s", strerror(errno));
	close(listener);
	if (write(its_client, "x", 1) != 1 || read(orphan, &byte, 1) != 1)
		fail("the connection of the closed listener is lost");
}

static void check_name(int fd, int peers, const char *wanted)
{
	char name[LENGTH] = "";
	struct sockaddr_un *addr = (void *)name;
	socklen_t size = sizeof name - 1;

	if (peers ? getpeername(fd, (void *)addr, &size) : getsockname(fd, (void *)addr, &size))
		return fail("%s has no name: %s", wanted, strerror(errno));
	if (strcmp(addr->sun_path, wanted))
		fail("%s has the name %s", wanted, addr->sun_path);
}

/* That this path leads to this very socket. */
static void check_path(struct bound *b, const char *path)
{
	struct sockaddr_un addr;
	socklen_t size = named(&addr, path);
	char byte = 0;
	int to, from;

	to = socket(AF_UNIX, b->kind | SOCK_CLOEXEC, 0);
	if (connect(to, (void *)&addr, size))
		return fail("%s leads nowhere: %s", path, strerror(errno));
	from = b->kind == SOCK_DGRAM ? b->fd : accept4(b->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (from < 0 || write(to, "x", 1) != 1 || recv(from, &byte, 1, MSG_DONTWAIT) != 1 || byte != 'x')
		fail("%s leads elsewhere", path);
	if (from != b->fd)
		close(from);
	close(to);
}

static void check(void)
{
	struct stat st;
	char byte;

	for (struct bound *b = all; b < all + count; b++) {
		if (b->kind != SOCK_DGRAM)
			fcntl(b->fd, F_SETFL, O_NONBLOCK);
		if (*b->first)
			check_name(b->fd, 0, b->first);
		for (int i = 0; i < 2; i++)
			if (*b->now[i])
				check_path(b, b->now[i]);
	}
	for (int i = 0; i < 4; i++) {
		static const char *const names[] = { "renamed.tmp", "unlinked", "gone", "client.tmp" };

		if (!lstat(in_folder(names[i]), &st))
			fail("%s is there again", names[i]);
	}
	if (lstat(in_folder("file"), &st) || !S_ISREG(st.st_mode))
		fail("the file with the first name of a socket is lost");
	if (lstat(in_folder("client"), &st) || !S_ISSOCK(st.st_mode))
		fail("the path of a connected socket is lost");
	check_name(client, 0, in_folder("client.tmp"));
	check_name(accepted, 1, in_folder("client.tmp"));
	check_name(accepted, 0, all[0].first);
	check_name(client, 1, all[0].first);
	if (write(client, "x", 1) != 1 || read(accepted, &byte, 1) != 1)
		fail("the connection is lost");
	check_orphan();
}

static void sockets_start(int argc, char **argv)
{
	snprintf(folder, sizeof folder, "%s/sockets", argc > 0 ? argv[0] : "/tmp");
	had(mkdir(folder, 0755), folder);
	hold();
	hold_orphan();
}

const struct shape sockets = { "sockets", "FOLDER", sockets_start, NULL, check, NULL };
