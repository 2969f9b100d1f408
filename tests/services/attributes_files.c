/* attributes_files.c - what open files have besides a path, each on a file of its own. */
#include "attributes.h"
#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <termios.h>

#define GROUP "file"

#ifndef F_GET_RW_HINT
#define F_GET_RW_HINT 1035
#define F_SET_RW_HINT 1036
#endif

/* A file, open from before the attribute is set. */
static int opened(const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/tmp/attribute-%s", name);
	fd = open(path, O_CREAT | O_CLOEXEC | flags, 0600);
	if (fd < 0)
		cannot(path);
	return fd;
}

/* What fdinfo says of a descriptor, in lines that begin with one of the words. */
static void put_info(struct value *v, int fd, const char *words)
{
	char path[64], line[256], word[32];
	size_t used = 0;
	FILE *file;

	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "%31[^:]", word) == 1 && strstr(words, word))
			used += snprintf((char *)v->bytes + used, sizeof v->bytes - used, "%.*s ", (int)strcspn(line, "\n"), line);
	v->size = used < sizeof v->bytes ? used : sizeof v->bytes;
	if (file)
		fclose(file);
}

static void put_number(struct value *v, int n)
{
	if (n >= 0)
		put(v, "%d", n);
}

/* Who is signalled when a descriptor is ready. */

static int pipe_of(int n, int end)
{
	static int pipes[12][2];

	if (!pipes[n][1] && pipe2(pipes[n], O_CLOEXEC))
		cannot("pipe");
	return pipes[n][end];
}

static int set_async(int fd)
{
	signal(SIGIO, SIG_IGN);
	return fcntl(fd, F_SETOWN, getpid()) ? -1 : fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
}

static void put_owner(struct value *v, int fd)
{
	struct f_owner_ex owner;

	if (!fcntl(fd, F_GETOWN_EX, &owner))
		put(v, "%d %d", owner.type, owner.pid);
}

/* Locks and leases. */

static int lock(int fd, int command, short type)
{
	return fcntl(fd, command, &(struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = 3, .l_len = 4 });
}

/* Which lock of the file is in the way of one of the other sort through the same descriptor. */
static void put_lock(struct value *v, int fd, int command)
{
	struct flock found = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (!fcntl(fd, command, &found))
		put(v, "%d %ld %ld %d", found.l_type, (long)found.l_start, (long)found.l_len, found.l_pid);
}

static int file_of(int n)
{
	static const char *const names[] = { "posix", "ofd", "flock", "hint", "lease", "lease-read", "append", "position", "noatime",
		"direct" };
	static int files[sizeof names / sizeof *names];

	if (!files[n])
		files[n] = opened(names[n], n == 5 ? O_RDONLY : O_RDWR);
	return files[n];
}

static int flag(int fd, int flag) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | flag); }

static void put_hint(struct value *v, int fd)
{
	unsigned long hint = 0;

	if (!fcntl(fd, F_GET_RW_HINT, &hint))
		put(v, "%lu", hint);
}

/* Anonymous inodes. */

static int event(void)
{
	static int fd;

	return fd ? fd : (fd = eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
}

static int clock_fd(void)
{
	static int fd;

	if (!fd) {
		fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC);
		timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &(struct itimerspec){ { 0 }, { 4000000000, 0 } }, NULL);
	}
	return fd;
}

static int signals_fd(void)
{
	static int fd;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN + 9);
	return fd ? fd : (fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

struct epoll_parameters { /* Linux 6.9 */
	uint32_t busy_poll_usecs;
	uint16_t busy_poll_budget;
	uint8_t prefer_busy_poll, pad;
};
#undef EPIOCSPARAMS /* newer C libraries have them */
#undef EPIOCGPARAMS
#define EPIOCSPARAMS _IOW(0x8A, 1, struct epoll_parameters)
#define EPIOCGPARAMS _IOR(0x8A, 2, struct epoll_parameters)

static int epoll(void)
{
	static int fd;

	return fd ? fd : (fd = epoll_create1(EPOLL_CLOEXEC));
}

static int set_epoll_flags(void)
{
	int fd = pipe_of(4, 0);

	return epoll_ctl(epoll(), EPOLL_CTL_ADD, fd, &(struct epoll_event){ EPOLLIN | EPOLLET | EPOLLONESHOT, { .u64 = 9 } });
}

static void put_epoll_parameters(struct value *v)
{
	struct epoll_parameters p = { 0 };

	if (!ioctl(epoll(), EPIOCGPARAMS, &p))
		put(v, "%u %u %u", p.busy_poll_usecs, p.busy_poll_budget, p.prefer_busy_poll);
}

static int memory_file(void)
{
	static int fd;

	return fd ? fd : (fd = memfd_create("attribute", MFD_ALLOW_SEALING | MFD_CLOEXEC));
}

static int watch(void)
{
	static int fd;

	return fd ? fd : (fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
}

/* A pseudoterminal, both ends of it. */

static int terminal(int end)
{
	static int fds[2];

	if (!fds[1] && openpty(&fds[0], &fds[1], NULL, NULL, NULL))
		cannot("openpty");
	fcntl(fds[0], F_SETFD, FD_CLOEXEC);
	fcntl(fds[1], F_SETFD, FD_CLOEXEC);
	return fds[end];
}

static int set_terminal(void)
{
	struct termios t;

	if (tcgetattr(terminal(1), &t))
		return -1;
	cfmakeraw(&t);
	t.c_cc[VMIN] = 3;
	return tcsetattr(terminal(1), TCSANOW, &t);
}

static void put_terminal(struct value *v)
{
	struct termios t;

	if (!tcgetattr(terminal(1), &t))
		put(v, "%x %x %x %x %d", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, t.c_cc[VMIN]);
}

static void put_window(struct value *v)
{
	struct winsize size;

	if (!ioctl(terminal(1), TIOCGWINSZ, &size))
		put(v, "%d %d", size.ws_row, size.ws_col);
}

static void put_ioctl(struct value *v, int fd, unsigned long command)
{
	int n = 0;

	if (!ioctl(fd, command, &n))
		put(v, "%d", n);
}

#define FILES(X)                                                                                                  \
	X(signal_, "F_SETSIG", fcntl(pipe_of(0, 0), F_SETSIG, SIGUSR1), put_number(v, fcntl(pipe_of(0, 0), F_GETSIG))) \
	X(owner, "F_SETOWN", fcntl(pipe_of(1, 0), F_SETOWN, getpid()), put_owner(v, pipe_of(1, 0)))              \
	X(owner_group, "F_SETOWN_EX F_OWNER_PGRP",                                                               \
	  fcntl(pipe_of(2, 0), F_SETOWN_EX, &(struct f_owner_ex){ F_OWNER_PGRP, getpgrp() }), put_owner(v, pipe_of(2, 0))) \
	X(owner_thread, "F_SETOWN_EX F_OWNER_TID",                                                               \
	  fcntl(pipe_of(3, 0), F_SETOWN_EX, &(struct f_owner_ex){ F_OWNER_TID, gettid() }), put_owner(v, pipe_of(3, 0))) \
	X(async, "O_ASYNC", set_async(pipe_of(5, 0)), put(v, "%x", fcntl(pipe_of(5, 0), F_GETFL)))               \
	X(pipe_size, "F_SETPIPE_SZ", fcntl(pipe_of(6, 0), F_SETPIPE_SZ, 1 << 18) < 0 ? -1 : 0,                   \
	  put_number(v, fcntl(pipe_of(6, 0), F_GETPIPE_SZ)))                                                     \
	X(packets, "O_DIRECT pipe", flag(pipe_of(7, 1), O_DIRECT), put(v, "%x", fcntl(pipe_of(7, 1), F_GETFL)))  \
	X(append, "O_APPEND", flag(file_of(6), O_APPEND), put(v, "%x", fcntl(file_of(6), F_GETFL)))              \
	X(nonblock, "O_NONBLOCK", flag(pipe_of(8, 1), O_NONBLOCK), put(v, "%x", fcntl(pipe_of(8, 1), F_GETFL)))  \
	X(noatime, "O_NOATIME", flag(file_of(8), O_NOATIME), put(v, "%x", fcntl(file_of(8), F_GETFL)))           \
	X(direct, "O_DIRECT", flag(file_of(9), O_DIRECT), put(v, "%x", fcntl(file_of(9), F_GETFL)))              \
	X(cloexec, "FD_CLOEXEC", fcntl(pipe_of(9, 1), F_SETFD, 0), put(v, "%x", fcntl(pipe_of(9, 1), F_GETFD)))  \
	X(position, "lseek", lseek(file_of(7), 12345, SEEK_SET) < 0, put(v, "%ld", (long)lseek(file_of(7), 0, SEEK_CUR))) \
	X(posix, "F_SETLK", lock(file_of(0), F_SETLK, F_WRLCK), put_lock(v, file_of(0), F_OFD_GETLK))                            \
	X(ofd, "F_OFD_SETLK", lock(file_of(1), F_OFD_SETLK, F_WRLCK), put_lock(v, file_of(1), F_GETLK))                        \
	X(flock_, "flock", flock(file_of(2), LOCK_EX), put_info(v, file_of(2), "lock") ; if (v->size) put(v, "locked")) \
	X(lease_read, "F_SETLEASE F_RDLCK", fcntl(file_of(5), F_SETLEASE, F_RDLCK), put_number(v, fcntl(file_of(5), F_GETLEASE))) \
	X(hint, "F_SET_RW_HINT", fcntl(file_of(3), F_SET_RW_HINT, &(unsigned long){ 3 }), put_hint(v, file_of(3)))    \
	X(seals, "F_ADD_SEALS", fcntl(memory_file(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW),                  \
	  put_number(v, fcntl(memory_file(), F_GET_SEALS)))                                                      \
	X(event_, "EFD_SEMAPHORE", CREATED, put_info(v, event(), "flags eventfd-count eventfd-semaphore"))   \
	X(clock_fd_, "TFD_TIMER_CANCEL_ON_SET", CREATED, put_info(v, clock_fd(), "flags clockid ticks settime flags")) \
	X(signals_, "signalfd", CREATED, put_info(v, signals_fd(), "flags sigmask"))                    \
	X(epoll_, "epoll_ctl", set_epoll_flags(), put_info(v, epoll(), "tfd"); if (v->size) v->size = 44)        \
	X(busy, "EPIOCSPARAMS", ioctl(epoll(), EPIOCSPARAMS, &(struct epoll_parameters){ 20, 8, 1, 0 }), put_epoll_parameters(v)) \
	X(watch_, "inotify_add_watch", inotify_add_watch(watch(), "/tmp", IN_CREATE | IN_ONLYDIR) < 0 ? -1 : CREATED,           \
	  put_info(v, watch(), "flags"))                                                                         \
	X(terminal_, "tcsetattr", set_terminal(), put_terminal(v))                                               \
	X(window, "TIOCSWINSZ", ioctl(terminal(1), TIOCSWINSZ, &(struct winsize){ 33, 44, 0, 0 }), put_window(v)) \
	X(packet_mode, "TIOCPKT", ioctl(terminal(0), TIOCPKT, &(int){ 1 }), put_ioctl(v, terminal(0), TIOCGPKT)) \
	X(exclusive, "TIOCEXCL", ioctl(terminal(1), TIOCEXCL), put_ioctl(v, terminal(1), TIOCGEXCL))             \
	X(pt_lock, "TIOCSPTLCK", ioctl(terminal(0), TIOCSPTLCK, &(int){ 1 }), put_ioctl(v, terminal(0), TIOCGPTLCK))

#define REFUSED(X)                                                                                         \
	X(lease_write, "F_SETLEASE F_WRLCK", fcntl(file_of(4), F_SETLEASE, F_WRLCK),                        \
	  put_number(v, fcntl(file_of(4), F_GETLEASE)))

FILES(DEFINE_ATTRIBUTE)
REFUSED(DEFINE_ATTRIBUTE)

void add_file_attributes(void)
{
	FILES(ADD_ATTRIBUTE)
	REFUSED(ADD_REFUSED_ATTRIBUTE)
}
