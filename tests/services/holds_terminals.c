/* holds_terminals.c - terminals: the container's, as a shell has it, and some of the service's own. */
#include "holds.h"
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

static struct {
	pid_t leader, front, back, stopped;
	atomic_int interrupted, resized, hung_up;
} *jobs;
static struct termios settings;
static struct identity before;
static int control, fd, other;

/* Sees whether the terminal is its own as well. */
static void idle(int arg)
{
	(void)arg;
	for (;;) {
		int tty = open("/dev/tty", O_RDWR);

		if (tty < 0 || tcgetsid(tty) != getsid(0))
			fail("a job has lost the terminal");
		close(tty);
		usleep(20000);
	}
}

static void on_interrupt(int signal)
{
	(void)signal;
	jobs->interrupted++;
}

static void on_resize(int signal)
{
	(void)signal;
	jobs->resized++;
}

static void on_hangup(int signal)
{
	(void)signal;
	jobs->hung_up++;
}

/* A job: a process in a group of its own. */
static pid_t job(void)
{
	pid_t pid = fork_child(idle, 0);

	setpgid(pid, pid);
	return pid;
}

/* What a shell has: a job in the foreground, one in the background, one that is stopped, and a program that changed the settings. */
static void terminal_hold(void)
{
	struct winsize size = { .ws_row = 33, .ws_col = 101 };
	int status;

	jobs = mmap(NULL, sizeof *jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	had(isatty(0) ? 0 : -1, "the terminal");
	signal(SIGTTOU, SIG_IGN);
	signal(SIGINT, on_interrupt);
	signal(SIGWINCH, on_resize);
	signal(SIGHUP, on_hangup);
	had(tcgetattr(0, &settings), "tcgetattr");
	settings.c_lflag &= ~(ECHO | ICANON);
	settings.c_cc[VMIN] = 3;
	had(tcsetattr(0, TCSANOW, &settings), "tcsetattr");
	had(tcgetattr(0, &settings), "tcgetattr");
	had(ioctl(0, TIOCSWINSZ, &size), "TIOCSWINSZ");
	control = had(open("/dev/tty", O_RDWR | O_NONBLOCK | O_CLOEXEC), "/dev/tty");
	fd = had(open("/dev/tty", O_WRONLY | O_CLOEXEC), "/dev/tty");
	jobs->leader = getpid();
	jobs->front = job();
	jobs->back = job();
	jobs->stopped = job();
	kill(jobs->stopped, SIGSTOP);
	waitpid(jobs->stopped, &status, WUNTRACED);
	had(tcsetpgrp(0, jobs->front), "tcsetpgrp");
	before = identity();
	jobs->resized = 0;
}

static char state_of(pid_t pid)
{
	char path[64], text[256] = "", *end;
	int file;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	file = open(path, O_RDONLY);
	if (file < 0 || read(file, text, sizeof text - 1) < 0)
		fail("%s cannot be read", path);
	close(file);
	end = strrchr(text, ')');
	return end ? end[2] : '?';
}

static void terminal_check(void)
{
	struct termios now;
	struct winsize size;
	int tty;

	check_identity(&before, "the shell");
	if (!isatty(0) || !isatty(1) || !isatty(2) || tcgetsid(0) != jobs->leader || tcgetsid(control) != jobs->leader)
		fail("the terminal does not control the session");
	if (tcgetpgrp(0) != jobs->front)
		fail("group %d is in the foreground, not %d", tcgetpgrp(0), jobs->front);
	if (tcgetattr(0, &now) || now.c_iflag != settings.c_iflag || now.c_oflag != settings.c_oflag ||
	    now.c_cflag != settings.c_cflag || now.c_lflag != settings.c_lflag || memcmp(now.c_cc, settings.c_cc, NCCS))
		fail("the terminal has other settings");
	if (state_of(jobs->stopped) != 'T' || state_of(jobs->back) == 'T' || state_of(jobs->front) == 'T')
		fail("the jobs are in other states");
	if ((fcntl(control, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) != (O_RDWR | O_NONBLOCK) ||
	    (fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) != O_WRONLY || fcntl(0, F_GETFL) & O_NONBLOCK)
		fail("the terminal is open in another way");
	tty = open("/dev/tty", O_RDWR);
	if (tty < 0 || ioctl(tty, TIOCGWINSZ, &size))
		fail("/dev/tty cannot be opened");
	close(tty);
	say("size=%dx%d interrupted=%d resized=%d hung_up=%d", size.ws_row, size.ws_col, jobs->interrupted, jobs->resized,
	    jobs->hung_up);
}

/* The container's, closed by all: it still controls the session. */
static void terminal_closed_hold(void)
{
	terminal_hold();
	close(control);
	close(fd);
	fd = had(open("/dev/null", O_RDWR), "/dev/null");
	kill(jobs->back, SIGKILL);
	kill(jobs->stopped, SIGKILL);
	kill(jobs->front, SIGKILL);
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	jobs->front = job();
}

static void terminal_closed_check(void)
{
	int tty = open("/dev/tty", O_RDWR);

	if (tty < 0 || tcgetsid(tty) != jobs->leader)
		fail("the terminal does not control the session");
	close(tty);
}

/* Opened, and no more than that: a daemon's output. Its settings are the terminal's. */
static void any_hold(void)
{
	signal(SIGINT, on_interrupt);
	jobs = mmap(NULL, sizeof *jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void any_check(void)
{
	static int times;
	char byte;
	int flags = fcntl(0, F_GETFL);

	dprintf(1, "line %d of the output\n", ++times);
	dprintf(2, "line %d of the errors\n", times);
	fcntl(0, F_SETFL, flags | O_NONBLOCK);
	say("terminals=%d%d%d read=%zd", isatty(0), isatty(1), isatty(2), read(0, &byte, 1));
	fcntl(0, F_SETFL, flags);
}

/* As an event loop waits for keys. */
static void polled_hold(void)
{
	struct epoll_event event = { .events = EPOLLIN };

	any_hold();
	had(epoll_ctl(had(epoll_create1(0), "epoll_create1"), EPOLL_CTL_ADD, 0, &event), "EPOLL_CTL_ADD");
}

/* Leads a session of its own on a terminal of the service's, as in tmux, script and sshd. */
static void on_own_terminal(int arg)
{
	struct winsize size = { .ws_row = 20, .ws_col = 60 };
	pid_t front;

	(void)arg;
	signal(SIGTTOU, SIG_IGN);
	setsid();
	had(open(ptsname(fd), O_RDWR), "the terminal");
	other = had(open("/dev/tty", O_RDWR | O_CLOEXEC), "/dev/tty");
	ioctl(other, TIOCSWINSZ, &size);
	signal(SIGINT, on_interrupt);
	front = job();
	tcsetpgrp(other, front);
	jobs->front = front;
	jobs->leader = getpid();
	idle(0);
}

static void own_hold(void)
{
	jobs = mmap(NULL, sizeof *jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fd = had(posix_openpt(O_RDWR | O_NOCTTY), "posix_openpt");
	grantpt(fd);
	unlockpt(fd);
	fork_child(on_own_terminal, 0);
	while (!jobs->leader)
		nap();
}

static void own_check(void)
{
	struct winsize size = { 0 };
	int last = jobs->interrupted;

	if (tcgetsid(fd) != jobs->leader || tcgetpgrp(fd) != jobs->front)
		fail("the terminal does not control its session");
	if (ioctl(fd, TIOCGWINSZ, &size) || size.ws_row != 20 || size.ws_col != 60)
		fail("the terminal has another size");
	if (write(fd, "\3", 1) != 1)
		fail("the terminal cannot be written to");
	for (int i = 0; i < 500 && jobs->interrupted == last; i++)
		nap();
	if (jobs->interrupted != last + 1)
		fail("the interrupt key has not reached the foreground");
	say("name=%s", ptsname(fd));
}

const struct object terminal_objects[] = {
	{ "terminal", terminal_hold, terminal_check },
	{ "terminal-closed", terminal_closed_hold, terminal_closed_check },
	{ "terminal-any", any_hold, any_check },
	{ "terminal-polled", polled_hold, any_check },
	{ "terminal-own", own_hold, own_check },
	{ 0 },
};
