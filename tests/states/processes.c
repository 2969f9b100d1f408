/* processes.c - limits, priorities, names and other attributes of the process; its children and threads. */
#include "states.h"
#include <pthread.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static int make_limit(struct object *o)
{
	static const int limits[] = { RLIMIT_CORE,   RLIMIT_CPU,    RLIMIT_MEMLOCK,    RLIMIT_MSGQUEUE, RLIMIT_NICE,
				      RLIMIT_NOFILE, RLIMIT_RTPRIO, RLIMIT_SIGPENDING, RLIMIT_STACK,    RLIMIT_FSIZE };
	int limit = o->note[0] = limits[draw(o, 10)];
	struct rlimit now, new;

	getrlimit(limit, &now);
	new.rlim_max = now.rlim_max == RLIM_INFINITY ? 0x10000000000u + draw(o, 1000) : now.rlim_max;
	new.rlim_cur = new.rlim_max - (new.rlim_max > 1000 ? draw(o, 100) : 0);
	return setrlimit(limit, &new);
}

static void tell_limit(struct object *o)
{
	struct rlimit now = { 0 };

	getrlimit(o->note[0], &now);
	tell(o, "limit %ld: %lu %lu", o->note[0], now.rlim_cur, now.rlim_max);
}

static int write_to(const char *path, int value)
{
	FILE *file = fopen(path, "we");

	if (!file)
		return -1;
	fprintf(file, "%d", value);
	return fclose(file);
}

static int make_attribute(struct object *o)
{
	unsigned long cpu = 1;

	switch (draw(o, 19)) {
	case 0: return prctl(PR_SET_NAME, o->name);
	case 1: return nice(1 + draw(o, 10)) < 0 ? -1 : 0;
	case 2: return prctl(PR_SET_TIMERSLACK, 1000 + draw(o, 100000));
	case 3: return sched_setscheduler(0, PICK(o, SCHED_BATCH, SCHED_IDLE), &(struct sched_param){ 0 });
	case 4: return prctl(PR_SET_CHILD_SUBREAPER, 1);
	case 5: return prctl(PR_SET_PDEATHSIG, SIGTERM);
	case 6: return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	case 7: return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	case 8: return syscall(SYS_ioprio_set, 1, 0, PICK(o, 2, 3) << 13 | draw(o, 8));
	case 9: return syscall(SYS_sched_setaffinity, 0, sizeof cpu, &cpu);
	case 10: return prctl(PR_SET_KEEPCAPS, 1);
	case 11: return personality(PICK(o, 0, 0x20008, 8));
	case 12: return write_to("/proc/self/oom_score_adj", 500 + draw(o, 500));
	case 13: return write_to("/proc/self/coredump_filter", draw(o, 0x7f));
	case 14: return prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PICK(o, PR_MCE_KILL_EARLY, PR_MCE_KILL_LATE), 0, 0);
	case 15: return prctl(PR_SET_SECUREBITS, PICK(o, 1, 2, 4, 8));
	case 16: return prctl(PR_CAPBSET_DROP, draw(o, 40));
	case 17: return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	}
	umask(draw(o, 0777));
	return 0;
}

static void tell_attribute(struct object *o)
{
	char name[17] = "";
	int reaps = -1, dies = -1;
	unsigned long cpus[16] = { 0 };
	mode_t mask = umask(0);

	umask(mask);
	prctl(PR_GET_NAME, name);
	prctl(PR_GET_CHILD_SUBREAPER, &reaps);
	prctl(PR_GET_PDEATHSIG, &dies);
	syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
	tell(o, "name %s nice %d slack %d policy %d subreaper %d death %d huge %d new %d umask %o", name,
	     getpriority(PRIO_PROCESS, 0), prctl(PR_GET_TIMERSLACK), sched_getscheduler(0), reaps, dies,
	     prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), mask);
	tell(o, "I/O %lx CPUs %lx keep %d personality %x errors %d secure %x dumpable %d", syscall(SYS_ioprio_get, 1, 0),
	     cpus[0], prctl(PR_GET_KEEPCAPS), personality(0xffffffff), prctl(PR_MCE_KILL_GET, 0, 0, 0, 0),
	     prctl(PR_GET_SECUREBITS), prctl(PR_GET_DUMPABLE));
}

static int make_directory(struct object *o)
{
	if (mkdir(new_path(o, "-cwd"), 0755) || chdir(o->path))
		return -1;
	return draw(o, 3) ? 0 : rmdir(o->path);
}

static void tell_directory(struct object *o)
{
	struct stat st = { 0 };
	char path[200] = "";

	stat(".", &st);
	tell(o, "in %s, mode %o, names %d", getcwd(path, sizeof path) ? path : strerror(errno), st.st_mode, (int)st.st_nlink);
}

static void stay(void)
{
	for (;;)
		pause();
}

/* Ends, stops, leads a session or a group, has a child, or leaves one behind; and tells when that is done. */
static void be_child(int what, int done)
{
	if (what == 2)
		setsid();
	if (what == 3)
		setpgid(0, 0);
	if (what == 4 || what == 5) {
		pid_t pid = fork();

		if (!pid) {
			close(done);
			stay();
		}
		if (pid < 0 || what == 5)
			_exit(pid < 0);
	}
	if (what)
		close(done);
	if (what == 1)
		raise(SIGSTOP);
	if (what)
		stay();
	_exit(3);
}

static int make_child(struct object *o)
{
	int pipe[2], what = o->note[0] = draw(o, 7);
	char byte;

	if (pipe2(pipe, O_CLOEXEC))
		return -1;
	o->pid[0] = fork();
	if (!o->pid[0]) {
		close(pipe[0]);
		be_child(what, pipe[1]);
	}
	close(pipe[1]);
	if (o->pid[0] < 0 || read(pipe[0], &byte, 1) < 0)
		return -1;
	close(pipe[0]);
	if (what == 1)
		return waitid(P_PID, o->pid[0], &(siginfo_t){ 0 }, WNOWAIT | WSTOPPED);
	return what && what != 5 ? 0 : waitid(P_PID, o->pid[0], &(siginfo_t){ 0 }, WNOWAIT | WEXITED);
}

static void tell_child(struct object *o)
{
	siginfo_t info = { 0 };

	waitid(P_PID, o->pid[0], &info, WNOWAIT | WNOHANG | WEXITED | WSTOPPED);
	tell(o, "child %d: session %d group %d, has %d: %d", o->pid[0], getsid(o->pid[0]), getpgid(o->pid[0]),
	     info.si_code, info.si_status);
}

static void *be_thread(void *name)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	prctl(PR_SET_NAME, name);
	stay();
	return NULL;
}

static int make_thread(struct object *o)
{
	for (int i = draw(o, 3); i >= 0; i--) {
		pthread_t thread;

		errno = pthread_create(&thread, NULL, be_thread, o->name);
		if (errno)
			return -1;
	}
	nap(); /* until it has its name */
	return 0;
}

/* What there is to see is in /proc. */
static void tell_nothing(struct object *o)
{
	tell(o, "is there");
}

const struct kind process_kinds[] = {
	{ "limit", make_limit, tell_limit },		 { "attribute", make_attribute, tell_attribute },
	{ "directory", make_directory, tell_directory }, { "child", make_child, tell_child },
	{ "thread", make_thread, tell_nothing },	 { NULL, NULL, NULL },
};
