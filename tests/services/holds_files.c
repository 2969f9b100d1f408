/* holds_files.c - objects that are descriptors, but sockets. */
#include "holds.h"
#include <linux/aio_abi.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>

static int fd, other;

static void open_still(void)
{
	if (fcntl(fd, F_GETFD) < 0)
		fail("the descriptor is lost");
}

static void mqueue_hold(void)
{
	fd = had(mq_open("/holds", O_CREAT | O_RDWR, 0600, NULL), "mq_open");
	if (mq_send(fd, "message", 7, 1))
		cannot("mq_send");
}

static void mqueue_check(void)
{
	struct mq_attr attr;

	if (mq_getattr(fd, &attr) || attr.mq_curmsgs != 1)
		fail("the message is lost");
}

static void userfaultfd_hold(void)
{
	fd = had(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY), "userfaultfd");
}

static void watch(const char *path)
{
	fd = had(inotify_init1(IN_NONBLOCK), "inotify_init1");
	had(inotify_add_watch(fd, path, IN_CREATE | IN_MODIFY | IN_DELETE), path);
}

static void inotify_none_hold(void)
{
	fd = had(inotify_init1(IN_NONBLOCK), "inotify_init1");
}

static void inotify_overlay_hold(void)
{
	watch("/tmp");
}

static void inotify_lower_hold(void)
{
	watch("/bin");
}

static void inotify_lower_file_hold(void)
{
	watch("/etc/passwd");
}

static void inotify_shm_hold(void)
{
	mkdir("/dev/shm/watched", 0700);
	watch("/dev/shm/watched");
}

/* What is made in the folder is told. */
static void inotify_shm_check(void)
{
	char event[512];

	close(had(open("/dev/shm/watched/file", O_CREAT | O_RDWR, 0600), "file"));
	if (read(fd, event, sizeof event) <= 0)
		fail("the watch is lost");
	unlink("/dev/shm/watched/file");
	while (read(fd, event, sizeof event) > 0)
		;
}

/* Everything is below it. */
static void inotify_root_hold(void)
{
	watch("/");
	had(inotify_add_watch(fd, "/bin", IN_CREATE), "/bin");
	had(inotify_add_watch(fd, "/proc", IN_CREATE), "/proc");
}

/* A watch for each folder, as tools have it that watch a whole tree. */
static void inotify_many_hold(void)
{
	char path[64];

	inotify_none_hold();
	for (int i = 0; i < 1000; i++) {
		snprintf(path, sizeof path, "/tmp/%d", i);
		mkdir(path, 0700);
		had(inotify_add_watch(fd, path, IN_CREATE), path);
	}
}

static void inotify_made_hold(void)
{
	mkdir("/etc/made", 0700);
	watch("/etc/made");
}

/* A file that is open, so that the watch stays. */
static void inotify_removed_hold(void)
{
	other = had(open("/tmp/removed", O_CREAT | O_RDWR, 0600), "file");
	watch("/tmp/removed");
	unlink("/tmp/removed");
}

static void inotify_bind_hold(void)
{
	watch("/store");
}

static void fanotify_hold(void)
{
	fd = had(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY), "fanotify_init");
	had(fanotify_mark(fd, FAN_MARK_ADD, FAN_CREATE | FAN_ONDIR, AT_FDCWD, "/dev/shm"), "fanotify_mark");
}

static void perf_hold(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .exclude_kernel = 1, .exclude_hv = 1,
					.config = PERF_COUNT_SW_CPU_CLOCK };

	fd = had(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0), "perf_event_open");
}

static void landlock_hold(void)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };

	fd = had(syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0), "landlock_create_ruleset");
}

static void pidfd_hold(void)
{
	fd = had(syscall(SYS_pidfd_open, getpid(), 0), "pidfd_open");
}

static void pidfd_outside_hold(void)
{
	fd = had(syscall(SYS_pidfd_open, 1, 0), "pidfd_open");
}

static void idle(int arg)
{
	(void)arg;
	for (;;)
		pause();
}

static void pidfd_dead_hold(void)
{
	pid_t pid = fork_child(idle, 0);

	fd = had(syscall(SYS_pidfd_open, pid, 0), "pidfd_open");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Not reaped yet. */
static void pidfd_zombie_hold(void)
{
	siginfo_t info;
	pid_t pid = fork_child(idle, 0);

	fd = had(syscall(SYS_pidfd_open, pid, 0), "pidfd_open");
	kill(pid, SIGKILL);
	waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
	other = pid;
}

static void pidfd_zombie_check(void)
{
	siginfo_t info = { 0 };

	if (waitid(P_PIDFD, fd, &info, WEXITED | WNOWAIT) || info.si_pid != other || info.si_status != SIGKILL)
		fail("the pidfd does not lead to the child that was killed");
}

static void pidfd_thread_hold(void)
{
	fd = had(syscall(SYS_pidfd_open, getpid(), O_EXCL), "PIDFD_THREAD");
}

/* Makes children all the time, each with a pidfd and a socket, and ends them. */
static void churn(int arg)
{
	(void)arg;
	for (;;) {
		int ends[2], pidfd;
		pid_t pid;

		had(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
		pid = had(fork(), "fork");
		if (!pid) {
			char byte;

			close(ends[0]);
			_exit(read(ends[1], &byte, 1) != 1);
		}
		close(ends[1]);
		pidfd = had(syscall(SYS_pidfd_open, pid, 0), "pidfd_open");
		usleep(3000);
		had(write(ends[0], "x", 1), "write");
		waitpid(pid, NULL, 0);
		close(pidfd);
		close(ends[0]);
		beats[0]++;
	}
}

static void churn_hold(void)
{
	fork_child(churn, 0);
	while (!beats[0])
		nap();
}

static void namespace_hold(void)
{
	fd = had(open("/proc/self/ns/net", O_RDONLY), "/proc/self/ns/net");
}

static void proc_file_hold(void)
{
	fd = had(open("/proc/self/status", O_RDONLY), "/proc/self/status");
}

static void proc_outside_hold(void)
{
	fd = had(open("/proc/1/stat", O_RDONLY), "/proc/1/stat");
}

static void sysfs_hold(void)
{
	fd = had(open("/sys/kernel", O_RDONLY), "/sys/kernel");
}

static void proc_dead_hold(void)
{
	pid_t pid = fork_child(idle, 0);
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	fd = had(open(path, O_RDONLY), path);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void opath_hold(void)
{
	fd = had(open("/etc/passwd", O_PATH), "O_PATH");
}

static void opath_link_hold(void)
{
	symlink("/etc/passwd", "/dev/shm/link");
	fd = had(open("/dev/shm/link", O_PATH | O_NOFOLLOW), "O_PATH");
}

/* One end, with a packet that nobody has read. */
static void packets_hold(void)
{
	int ends[2];

	had(pipe2(ends, O_CLOEXEC | O_DIRECT), "pipe2");
	had(write(ends[1], "x", 1), "write");
	fd = ends[0];
}

static void lease_hold(void)
{
	fd = had(open("/dev/shm/leased", O_CREAT | O_RDWR, 0600), "leased");
	if (fcntl(fd, F_SETLEASE, F_WRLCK))
		cannot("F_SETLEASE");
}

static void lease_check(void)
{
	if (fcntl(fd, F_GETLEASE) != F_WRLCK)
		fail("the lease is lost");
}

static void lease_read_hold(void)
{
	fd = had(open("/etc/passwd", O_RDONLY), "leased");
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		cannot("F_SETLEASE");
}

static void lease_read_check(void)
{
	if (fcntl(fd, F_GETLEASE) != F_RDLCK)
		fail("the lease is lost");
}

/* fcntl(F_NOTIFY): dnotify. */
static void dnotify_hold(void)
{
	signal(SIGIO, SIG_IGN);
	fd = had(open("/dev/shm", O_RDONLY | O_DIRECTORY), "/dev/shm");
	if (fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT))
		cannot("F_NOTIFY");
}

static void tun_hold(void)
{
	fd = had(open("/dev/net/tun", O_RDWR), "/dev/net/tun");
}

static void pty_hold(void)
{
	fd = had(posix_openpt(O_RDWR | O_NOCTTY), "posix_openpt");
	grantpt(fd);
	unlockpt(fd);
	other = had(open(ptsname(fd), O_RDWR | O_NOCTTY), "pty");
}

static void pty_check(void)
{
	char line[8] = "";

	if (write(fd, "x\n", 2) != 2 || read(other, line, sizeof line) != 2)
		fail("the terminal is lost");
}

static void chardev_hold(void)
{
	fd = had(open("/dev/full", O_WRONLY), "/dev/full");
	other = had(open("/dev/urandom", O_RDONLY), "/dev/urandom");
}

/*
 * An epoll that watches four files by one number: each was added, went on under another number, and was followed by
 * the next. The first is watched by its new number as well.
 */
enum { SEVERAL = 4 };
static int several[SEVERAL];

static void epoll_twice_hold(void)
{
	int number = had(open("/dev/null", O_RDONLY), "/dev/null");

	fd = had(epoll_create1(0), "epoll_create1");
	for (int i = 0; i < SEVERAL; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u64 = 10 + i };

		event.events |= i == 1 ? EPOLLEXCLUSIVE : i == SEVERAL - 1 ? EPOLLET : 0;
		several[i] = had(eventfd(0, EFD_NONBLOCK), "eventfd");
		had(dup2(several[i], number), "dup2");
		had(epoll_ctl(fd, EPOLL_CTL_ADD, number, &event), "EPOLL_CTL_ADD");
	}
	had(epoll_ctl(fd, EPOLL_CTL_ADD, several[0], &(struct epoll_event){ EPOLLOUT | EPOLLONESHOT, { .u64 = 20 } }), "EPOLL_CTL_ADD");
	other = number;
}

/* Each tells of its own events, and the last one can still be changed by the number. */
static void epoll_twice_check(void)
{
	struct epoll_event event;

	epoll_wait(fd, &event, 1, 0); /* that it can be written to, once */
	for (int i = 0; i < SEVERAL; i++) {
		eventfd_write(several[i], 1);
		if (epoll_wait(fd, &event, 1, 0) != 1 || event.data.u64 != 10U + i)
			fail("file %d of the epoll does not tell of its events", i);
		eventfd_read(several[i], &(eventfd_t){ 0 });
	}
	if (epoll_wait(fd, &event, 1, 0))
		fail("an event of nothing: %lu", event.data.u64);
	if (epoll_ctl(fd, EPOLL_CTL_MOD, other, &(struct epoll_event){ EPOLLIN | EPOLLET, { .u64 = 9 + SEVERAL } }))
		fail("the number has gone");
}

/* Two files by one number, of which the first has told its only event. What a dump looks at may not arm it again. */
static void epoll_fired_hold(void)
{
	int number = had(open("/dev/null", O_RDONLY), "/dev/null");
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT };

	fd = had(epoll_create1(0), "epoll_create1");
	for (int i = 0; i < 2; i++) {
		several[i] = had(eventfd(i == 0, EFD_NONBLOCK), "eventfd");
		had(dup2(several[i], number), "dup2");
		had(epoll_ctl(fd, EPOLL_CTL_ADD, number, &event), "EPOLL_CTL_ADD");
	}
	had(epoll_wait(fd, &event, 1, -1) == 1 ? 0 : -1, "epoll_wait");
	other = number;
}

static void epoll_fired_check(void)
{
	char name[64], line[256];
	unsigned events;
	int fired = 0;
	FILE *info;

	snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
	info = fopen(name, "r");
	while (info && fgets(line, sizeof line, info))
		if (sscanf(line, "tfd: %*d events: %x", &events) == 1)
			fired += events == EPOLLONESHOT;
	if (info)
		fclose(info);
	say("fired=%d", fired);
}

/* The number is closed, the open file lives on. */
static void epoll_closed_hold(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int watched = had(eventfd(0, 0), "eventfd");

	fd = had(epoll_create1(0), "epoll_create1");
	had(epoll_ctl(fd, EPOLL_CTL_ADD, watched, &event), "EPOLL_CTL_ADD");
	other = had(dup(watched), "dup");
	close(watched);
}

static void few_hold(void)
{
	struct rlimit limit = { 32, 32 };

	setrlimit(RLIMIT_NOFILE, &limit);
	while ((fd = dup(2)) >= 0)
		;
	close(31);
	close(30);
}

static void high_descriptor_hold(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	fd = had(dup2(2, 1000), "dup2");
}

static void deleted_folder_hold(void)
{
	mkdir("/dev/shm/gone", 0700);
	fd = had(open("/dev/shm/gone", O_RDONLY | O_DIRECTORY), "folder");
	rmdir("/dev/shm/gone");
}

/* A file below a folder that is gone, too. */
static void deleted_both_hold(void)
{
	mkdir("/dev/shm/gone", 0700);
	fd = had(open("/dev/shm/gone/file", O_RDWR | O_CREAT, 0600), "file");
	unlink("/dev/shm/gone/file");
	rmdir("/dev/shm/gone");
}

/* Deleted files below a deleted folder: one has another name elsewhere, one has the folder's folder open. */
static const char *const tops[] = { "/dev/shm", "/tmp" };
static int nested[2][4];

static void deleted_nested_hold(void)
{
	char folder[32], below[64], path[96], elsewhere[64];

	for (int i = 0; i < 2; i++) {
		snprintf(folder, sizeof folder, "%s/gone-top", tops[i]);
		snprintf(below, sizeof below, "%s/below", folder);
		snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", tops[i]);
		mkdir(folder, 0700);
		mkdir(below, 0700);
		snprintf(path, sizeof path, "%s/file", below);
		nested[i][0] = had(open(path, O_RDWR | O_CREAT, 0600), path);
		had(write(nested[i][0], "file", 4), path);
		unlink(path);
		snprintf(path, sizeof path, "%s/linked", below);
		nested[i][1] = had(open(path, O_RDWR | O_CREAT, 0600), path);
		had(write(nested[i][1], "link", 4), path);
		had(link(path, elsewhere), elsewhere);
		unlink(path);
		nested[i][2] = had(open(below, O_RDONLY | O_DIRECTORY), below);
		nested[i][3] = had(open(folder, O_RDONLY | O_DIRECTORY), folder);
		rmdir(below);
		rmdir(folder);
	}
}

static void deleted_nested_check(void)
{
	char text[5] = "", elsewhere[64];
	struct stat a, b;

	for (int i = 0; i < 2; i++) {
		if (pread(nested[i][0], text, 4, 0) != 4 || strcmp(text, "file"))
			fail("the deleted file of %s", tops[i]);
		if (pread(nested[i][1], text, 4, 0) != 4 || strcmp(text, "link"))
			fail("the linked file of %s", tops[i]);
		snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", tops[i]);
		if (fstat(nested[i][1], &a) || stat(elsewhere, &b) || a.st_ino != b.st_ino)
			fail("%s is another file", elsewhere);
		for (int k = 2; k < 4; k++)
			if (fstat(nested[i][k], &a) || !S_ISDIR(a.st_mode))
				fail("the deleted folder %d of %s", k, tops[i]);
	}
}

static void deleted_fifo_hold(void)
{
	mkfifo("/dev/shm/fifo", 0600);
	fd = had(open("/dev/shm/fifo", O_RDWR), "fifo");
	unlink("/dev/shm/fifo");
}

const struct object file_objects[] = {
	{ "mqueue", mqueue_hold, mqueue_check },
	{ "userfaultfd", userfaultfd_hold, open_still },
	{ "inotify-none", inotify_none_hold, open_still },
	{ "inotify-overlay", inotify_overlay_hold, open_still },
	{ "inotify-lower", inotify_lower_hold, open_still },
	{ "inotify-lower-file", inotify_lower_file_hold, open_still },
	{ "inotify-made", inotify_made_hold, open_still },
	{ "inotify-root", inotify_root_hold, open_still },
	{ "inotify-many", inotify_many_hold, open_still },
	{ "inotify-removed", inotify_removed_hold, open_still },
	{ "inotify-shm", inotify_shm_hold, inotify_shm_check },
	{ "inotify-bind", inotify_bind_hold, open_still },
	{ "fanotify", fanotify_hold, open_still },
	{ "perf", perf_hold, open_still },
	{ "landlock", landlock_hold, open_still },
	{ "pidfd", pidfd_hold, open_still },
	{ "pidfd-outside", pidfd_outside_hold, open_still },
	{ "pidfd-dead", pidfd_dead_hold, open_still },
	{ "pidfd-zombie", pidfd_zombie_hold, pidfd_zombie_check },
	{ "pidfd-thread", pidfd_thread_hold, open_still },
	{ "churn", churn_hold, NULL },
	{ "namespace", namespace_hold, open_still },
	{ "proc-file", proc_file_hold, open_still },
	{ "proc-outside", proc_outside_hold, open_still },
	{ "proc-dead", proc_dead_hold, open_still },
	{ "sysfs", sysfs_hold, open_still },
	{ "opath", opath_hold, open_still },
	{ "opath-link", opath_link_hold, open_still },
	{ "packets", packets_hold, open_still },
	{ "lease", lease_hold, lease_check },
	{ "lease-read", lease_read_hold, lease_read_check },
	{ "dnotify", dnotify_hold, open_still },
	{ "tun", tun_hold, open_still },
	{ "pty", pty_hold, pty_check },
	{ "chardev", chardev_hold, open_still },
	{ "epoll-twice", epoll_twice_hold, epoll_twice_check },
	{ "epoll-fired", epoll_fired_hold, epoll_fired_check },
	{ "epoll-closed", epoll_closed_hold, open_still },
	{ "few-descriptors", few_hold, NULL },
	{ "high-descriptor", high_descriptor_hold, open_still },
	{ "deleted-folder", deleted_folder_hold, open_still },
	{ "deleted-both", deleted_both_hold, open_still },
	{ "deleted-nested", deleted_nested_hold, deleted_nested_check },
	{ "deleted-fifo", deleted_fifo_hold, open_still },
	{ 0 },
};
