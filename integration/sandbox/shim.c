/*
 * shim - stands above one container, as containerd-shim and conmon do.
 *
 *   shim [-f] [-i] [-t] [-o HOW] [-u ID] DIR LOWER RUNC...
 *
 * Mounts the overlay DIR/rootfs (over LOWER) in a mount namespace of its own, so
 * that no mount outlives the container; runs RUNC, which must start the container
 * detached and write DIR/pid; copies its stdout and stderr, one pipe each, to
 * DIR/stdout.log and DIR/stderr.log; reaps PID 1 and writes its exit status to
 * DIR/status. Holds a lock on DIR/running (in which is its PID) until then, and on
 * DIR/copying until the last byte is copied: both end with the shim, however it ends.
 *
 *   -f  stays in the foreground, copies to its own stdout and stderr, and exits
 *       with the status; otherwise prints the PID of PID 1 once it runs
 *   -i  stdin is a pipe, fed from the fifo DIR/stdin (with -f: from our stdin)
 *   -t  stdio is a terminal; RUNC must be told --console-socket DIR/console
 *   -o  what stdout and stderr are: "pipes"; "files", the logs themselves; "fifos", pipes with a name (not with -f)
 *   -u  ID of the user and group that own the pipes, as with engines: root of the container's user namespace
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_FAILED 125 /* as docker run */

static int foreground, interactive, terminal, owner;
static const char *output = "pipes";

static void die(const char *what)
{
	fprintf(stderr, "shim: %s: %s\n", what, strerror(errno));
	exit(START_FAILED);
}

static int must(int result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

struct copy {
	int from, to;
	pthread_t thread;
};

/* Copies until the end of `from`; a terminal says EIO there. */
static void *copy_all(void *arg)
{
	struct copy *c = arg;
	char buf[65536];
	ssize_t n;

	while ((n = read(c->from, buf, sizeof buf)) > 0)
		for (ssize_t done = 0, w; done < n; done += w)
			if ((w = write(c->to, buf + done, n - done)) < 0)
				goto out;
out:
	close(c->from);
	if (c->to > 2)
		close(c->to);
	return NULL;
}

/* Waits for the first writer of DIR/stdin and gives the container what it writes. */
static void *feed_stdin(void *arg)
{
	struct copy *c = arg;

	c->from = foreground ? 0 : open("stdin", O_RDONLY | O_CLOEXEC);
	return copy_all(c);
}

static void start_copy(struct copy *c, void *(*body)(void *))
{
	if (pthread_create(&c->thread, NULL, body, c))
		die("pthread_create");
}

/* Receives the terminal that runc made, then copies both ways. */
static void *serve_terminal(void *arg)
{
	struct copy *out = arg;
	static struct copy in;
	char byte[4096], control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { byte, sizeof byte };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
			      .msg_control = control, .msg_controllen = sizeof control };
	int conn = accept4(out->from, NULL, NULL, SOCK_CLOEXEC);

	if (conn < 0 || recvmsg(conn, &msg, MSG_CMSG_CLOEXEC) < 0 || !CMSG_FIRSTHDR(&msg))
		return NULL;
	memcpy(&out->from, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	close(conn);
	if (interactive) {
		in.to = must(fcntl(out->from, F_DUPFD_CLOEXEC, 3), "dup of the terminal");
		start_copy(&in, feed_stdin);
	}
	return copy_all(out);
}

static int listen_console(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "console" };
	int sock = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	must(bind(sock, (void *)&addr, sizeof addr), "bind to console");
	must(listen(sock, 1), "listen");
	return sock;
}

static int locked(const char *name)
{
	int fd = must(open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644), name);

	must(flock(fd, LOCK_EX), name);
	dprintf(fd, "%d\n", getpid());
	return fd;
}

static void mount_root(const char *lower)
{
	char *opts;

	must(unshare(CLONE_NEWNS), "unshare");
	must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "mount --make-rslave /");
	/* volatile: what is thrown away need not be synced, neither here nor at umount */
	must(asprintf(&opts, "lowerdir=%s,upperdir=upper,workdir=work,volatile", lower), "asprintf");
	must(mount("overlay", "rootfs", "overlay", 0, opts), "mount of the overlay");
	free(opts);
}

static pid_t spawn(char **argv, int in, int out, int err)
{
	pid_t pid = must(fork(), "fork");

	if (pid)
		return pid;
	signal(SIGPIPE, SIG_DFL);
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		_exit(START_FAILED);
	execvp(argv[0], argv);
	_exit(127);
}

static int reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int read_pid(void)
{
	int pid = 0;
	FILE *f = fopen("pid", "re");

	if (!f || fscanf(f, "%d", &pid) != 1)
		die("the file pid that runc writes");
	fclose(f);
	return pid;
}

static void write_status(int status)
{
	FILE *f = fopen("status.new", "we");

	if (!f)
		die("status.new");
	fprintf(f, "%d\n", status);
	if (fclose(f) || rename("status.new", "status"))
		die("status");
}

static int log_file(const char *name, int own)
{
	if (foreground)
		return own;
	return must(open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644), name);
}

/* The end that the container writes to is in ends[1]; with "files" there is none to read from. */
static void open_output(const char *name, int ends[2])
{
	char *fifo;

	if (!strcmp(output, "files")) {
		ends[0] = must(open("/dev/null", O_RDONLY | O_CLOEXEC), "/dev/null");
		ends[1] = log_file(name, -1);
	} else if (!strcmp(output, "fifos")) {
		must(asprintf(&fifo, "%s.fifo", name), "asprintf");
		must(mkfifo(fifo, 0600), fifo);
		ends[0] = must(open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC), fifo);
		ends[1] = must(open(fifo, O_WRONLY | O_CLOEXEC), fifo);
		must(fcntl(ends[0], F_SETFL, 0), fifo);
		free(fifo);
	} else {
		must(pipe2(ends, O_CLOEXEC), "pipe");
	}
}

/* Goes to the background; the first process prints the PID when the container runs. */
static int daemonize(void)
{
	int ready[2], null;
	char line[32];
	ssize_t n;

	must(pipe2(ready, O_CLOEXEC), "pipe");
	if (must(fork(), "fork")) {
		close(ready[1]);
		n = read(ready[0], line, sizeof line);
		exit(n > 0 && write(1, line, n) == n ? 0 : START_FAILED);
	}
	setsid();
	null = must(open("/dev/null", O_RDWR), "/dev/null");
	dup2(null, 0);
	dup2(null, 1);
	dup2(log_file("stderr.log", 2), 2);
	return ready[1];
}

int main(int argc, char **argv)
{
	struct copy in, out, err;
	int opt, status, ready = -1, console = -1, pipes[3][2];

	while ((opt = getopt(argc, argv, "+fito:u:")) > 0)
		if (opt == 'u')
			owner = atoi(optarg);
		else if (opt == 'o')
			output = optarg;
		else
			*(opt == 'f' ? &foreground : opt == 'i' ? &interactive : &terminal) = 1;
	if (argc - optind < 3) {
		fprintf(stderr, "usage: shim [-f] [-i] [-t] [-o HOW] [-u ID] DIR LOWER RUNC...\n");
		return 2;
	}
	/* a descriptor of the caller's held here would keep its pipes open */
	syscall(SYS_close_range, 3, ~0U, 0);
	must(chdir(argv[optind]), argv[optind]);
	if (interactive && !foreground)
		must(mkfifo("stdin", 0600), "stdin");
	if (terminal)
		console = listen_console();
	if (!foreground)
		ready = daemonize();
	must(prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
	signal(SIGPIPE, SIG_IGN);
	int running = locked("running"), copying = locked("copying");
	mount_root(argv[optind + 1]);

	must(pipe2(pipes[0], O_CLOEXEC), "pipe");
	open_output("stdout.log", pipes[1]);
	open_output("stderr.log", pipes[2]);
	for (int i = 0; i < 3; i++)
		must(fchown(pipes[i][1], owner, owner), "owner of a pipe");
	int null = must(open("/dev/null", O_RDONLY | O_CLOEXEC), "/dev/null");
	int stdin_pipe = interactive && !terminal;
	pid_t runc = spawn(argv + optind + 2, stdin_pipe ? pipes[0][0] : null, pipes[1][1], pipes[2][1]);
	close(pipes[0][0]);
	close(pipes[1][1]);
	close(pipes[2][1]);
	in.to = pipes[0][1];
	out = (struct copy){ .from = terminal ? console : pipes[1][0], .to = log_file("stdout.log", 1) };
	err = (struct copy){ .from = pipes[2][0], .to = log_file("stderr.log", 2) };
	start_copy(&out, terminal ? serve_terminal : copy_all);
	start_copy(&err, copy_all);
	if (stdin_pipe)
		start_copy(&in, feed_stdin);

	if (reap(runc) == 0) {
		pid_t init = read_pid();
		if (ready >= 0)
			dprintf(ready, "%d\n", init);
		close(ready);
		status = reap(init);
		write_status(status);
	} else {
		status = START_FAILED;
		if (terminal)
			shutdown(console, SHUT_RDWR);
	}
	close(running);
	pthread_join(out.thread, NULL);
	pthread_join(err.thread, NULL);
	close(copying);
	return status;
}
