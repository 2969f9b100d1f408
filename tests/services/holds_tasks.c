/* holds_tasks.c - objects that are processes and threads. */
#include "holds.h"
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static char stack[65536] __attribute__((aligned(16)));
static pid_t child;
static int log_file;

static void idle(int arg)
{
	(void)arg;
	for (;;)
		pause();
}

static int idle_clone(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return 0;
}

static void *idle_thread(void *arg)
{
	(void)arg;
	idle(0);
	return NULL;
}

static void filter_everything_in(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { 1, &allow };

	had(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	had(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "PR_SET_SECCOMP");
}

static void *filtered_thread(void *ready)
{
	filter_everything_in();
	atomic_store((atomic_int *)ready, 1);
	idle(0);
	return NULL;
}

static void seccomp_thread_hold(void)
{
	static atomic_int ready;
	pthread_t thread;

	pthread_create(&thread, NULL, filtered_thread, &ready);
	while (!ready)
		nap();
}

static void strict_child(int arg)
{
	(void)arg;
	beats[0]++;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		fail("strict mode: %s", strerror(errno));
	for (;;)
		;
}

static void seccomp_strict_hold(void)
{
	fork_child(strict_child, 0);
	await_beats(0);
	while (!beats[0])
		nap();
	nap();
}

static void chroot_hold(void)
{
	had(chroot("/services"), "chroot");
}

/* Into a folder that is no mount point, with a file there. */
static void chroot_folder_hold(void)
{
	mkdir("/tmp/root", 0700);
	had(chroot("/tmp/root"), "chroot");
	had(chdir("/"), "chdir");
	log_file = had(open("/log", O_CREAT | O_RDWR, 0600), "/log");
	had(write(log_file, "line", 4), "write");
}

static void chroot_folder_check(void)
{
	struct stat open_file, named;

	if (fstat(log_file, &open_file) || stat("/log", &named) || open_file.st_ino != named.st_ino || named.st_size != 4)
		fail("the log below the root is not the same");
	if (!access("/opt", F_OK))
		fail("the root is the container's again");
}

static void chroot_check(void)
{
	if (!access("/opt", F_OK))
		fail("the root is the container's again");
}

static void user_namespace_hold(void)
{
	had(unshare(CLONE_NEWUSER), "CLONE_NEWUSER");
}

static void net_namespace_hold(void)
{
	had(unshare(CLONE_NEWUSER | CLONE_NEWNET), "CLONE_NEWNET");
}

/* Only its children will be in it. */
static void pid_namespace_hold(void)
{
	had(unshare(CLONE_NEWUSER | CLONE_NEWPID), "CLONE_NEWPID");
}

static void traced_child(int arg)
{
	(void)arg;
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	beats[0]++;
	idle(0);
}

static void ptrace_hold(void)
{
	child = fork_child(traced_child, 0);
	while (!beats[0])
		nap();
}

static void not_dumpable_hold(void)
{
	had(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE");
}

static void cloned(int flags)
{
	child = had(clone(idle_clone, stack + sizeof stack, flags | SIGCHLD, NULL), "clone");
}

static void shared_memory_hold(void)
{
	cloned(CLONE_VM);
}

static void shared_files_hold(void)
{
	cloned(CLONE_FILES);
}

static void shared_files_check(void)
{
	int fd = dup(2);
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/fd/%d", child, fd);
	if (access(path, F_OK))
		fail("the descriptors are not shared any more");
	close(fd);
}

static void shared_fs_hold(void)
{
	cloned(CLONE_FS);
}

static void shared_fs_check(void)
{
	char path[64], folder[64] = "";

	snprintf(path, sizeof path, "/proc/%d/cwd", child);
	chdir("/tmp");
	if (readlink(path, folder, sizeof folder - 1) < 0 || strcmp(folder, "/tmp"))
		fail("the working directory is not shared any more");
	chdir("/");
}

static void *vforking_thread(void *arg)
{
	(void)arg;
	child = vfork();
	if (!child)
		idle(0);
	return NULL;
}

static void vfork_hold(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, vforking_thread, NULL);
	nap();
}

/* Waits for one child after another, each for a short time, as who runs programs by posix_spawn. */
static void vforking_child(int arg)
{
	(void)arg;
	for (;;) {
		pid_t pid = vfork();

		if (!pid) {
			usleep(20000);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		beats[0]++;
	}
}

static void vfork_short_hold(void)
{
	fork_child(vforking_child, 0);
	while (!beats[0])
		nap();
}

static void block_trap(void)
{
	sigset_t trap;

	sigemptyset(&trap);
	sigaddset(&trap, SIGTRAP);
	sigprocmask(SIG_BLOCK, &trap, NULL);
}

static void trap_process_hold(void)
{
	block_trap();
	kill(getpid(), SIGTRAP);
}

static void *trapped_thread(void *unused)
{
	block_trap();
	raise(SIGTRAP);
	idle(0);
	return unused;
}

static void trap_thread_hold(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, trapped_thread, NULL);
}

static void *own_cwd(void *tid)
{
	had(unshare(CLONE_FS), "unshare(CLONE_FS)");
	had(chdir("/tmp"), "/tmp");
	atomic_store((atomic_int *)tid, gettid());
	idle(0);
	return NULL;
}

static atomic_int thread_id;

static void thread_cwd_hold(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, own_cwd, &thread_id);
	while (!thread_id)
		nap();
}

static void thread_cwd_check(void)
{
	char path[64], folder[64] = "";

	snprintf(path, sizeof path, "/proc/self/task/%d/cwd", thread_id);
	if (readlink(path, folder, sizeof folder - 1) < 0 || strcmp(folder, "/tmp"))
		fail("the thread's working directory is %s", folder);
}

/* A thread made with all that threads share but the descriptors. */
static int own_files(void *arg)
{
	(void)arg;
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	atomic_store(&thread_id, gettid());
	for (;;)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
	return 0;
}

static void thread_files_hold(void)
{
	had(clone(own_files, stack + sizeof stack,
		  CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL),
	    "clone");
	while (!thread_id)
		nap();
}

static void thread_files_check(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/task/%d/fd/1", thread_id);
	if (!access(path, F_OK))
		fail("the thread's descriptors are the process's");
}

static void leaderless_child(int arg)
{
	pthread_t thread;

	(void)arg;
	pthread_create(&thread, NULL, idle_thread, NULL);
	pthread_exit(NULL);
}

/* A process whose first thread has ended. */
static void leader_gone_hold(void)
{
	child = fork_child(leaderless_child, 0);
	nap();
	nap();
}

static void leader_gone_check(void)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/task/%d", child, child + 1);
	if (access(path, F_OK))
		fail("the thread is lost");
}

static void stopped_hold(void)
{
	child = fork_child(idle, 0);
	kill(child, SIGSTOP);
	waitpid(child, NULL, WUNTRACED | WNOWAIT);
}

/* prctl(PR_SET_TIMERSLACK) and the like are per thread. */
static void keep_caps_hold(void)
{
	had(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS");
}

static void keep_caps_check(void)
{
	if (prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0) != 1)
		fail("PR_SET_KEEPCAPS is lost");
}

static void sched_hold(void)
{
	had(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){ 0 }), "sched_setscheduler");
}

static void sched_check(void)
{
	if (sched_getscheduler(0) != SCHED_BATCH)
		fail("the scheduling policy is lost");
}

static void member_of_left_group(int arg)
{
	pid_t before = getpgrp();

	(void)arg;
	had(setpgid(0, 0), "setpgid");
	fork_child(idle, 0);
	had(setpgid(0, before), "setpgid");
	beats[0]++;
	idle(0);
}

/* The first process of a group goes back to the one before, and its child stays. */
static void left_group_hold(void)
{
	fork_child(member_of_left_group, 0);
	while (!beats[0])
		nap();
}

/*
 * Each process of a chain wants to be signalled when its parent ends. The last one's parent has ended, by a signal that
 * it has counted.
 */
enum { CHAIN = 4 };
static atomic_int *deaths;

static void on_death(int number)
{
	(void)number;
	deaths[0]++;
}

static void chain_link(int left)
{
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	if (left == 2) { /* this one ends */
		if (fork_child(chain_link, left - 1))
			usleep(50000);
		_exit(0);
	}
	if (left)
		fork_child(chain_link, left - 1);
	for (;;) {
		beats[left]++;
		nap();
	}
}

static void death_chain_hold(void)
{
	deaths = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	signal(SIGUSR1, on_death);
	fork_child(chain_link, CHAIN);
	while (!*deaths)
		nap();
	beats[2] = LONG_MAX / 2; /* of the one that has ended */
}

static void death_chain_check(void)
{
	long before[CHAIN + 1];

	for (int i = 0; i <= CHAIN; i++)
		before[i] = beats[i];
	usleep(200000);
	for (int i = 0; i <= CHAIN; i++)
		if (i != 2 && beats[i] == before[i])
			fail("process %d of the chain has ended", i);
	if (*deaths != 1)
		fail("%d deaths of parents instead of 1", *deaths);
}

/*
 * Zombies of every kind: of a session that lives on, of a group that lives on, and of both; each waited for by nobody.
 */
static pid_t zombies[3];

static void zombie(int kind)
{
	if (kind != 1)
		setsid();
	if (kind != 0)
		setpgid(0, 0);
	fork_child(idle, 0);
	if (kind == 2 && !fork())
		setpgid(0, 0), idle(0);
	_exit(40 + kind);
}

static void zombies_hold(void)
{
	for (int i = 0; i < 3; i++)
		zombies[i] = fork_child(zombie, i);
	usleep(100000);
}

static void zombies_check(void)
{
	for (int i = 0; i < 3; i++) {
		siginfo_t info = { 0 };

		if (waitid(P_PID, zombies[i], &info, WEXITED | WNOWAIT | WNOHANG) || info.si_status != 40 + i)
			fail("zombie %d is lost, or another: %d", i, info.si_status);
	}
}

const struct object task_objects[] = {
	{ "seccomp", filter_everything_in, NULL },
	{ "seccomp-thread", seccomp_thread_hold, NULL },
	{ "seccomp-strict", seccomp_strict_hold, NULL },
	{ "chroot", chroot_hold, chroot_check },
	{ "chroot-folder", chroot_folder_hold, chroot_folder_check },
	{ "user-namespace", user_namespace_hold, NULL },
	{ "net-namespace", net_namespace_hold, NULL },
	{ "pid-namespace", pid_namespace_hold, NULL },
	{ "ptrace", ptrace_hold, NULL },
	{ "not-dumpable", not_dumpable_hold, NULL },
	{ "shared-memory", shared_memory_hold, NULL },
	{ "shared-files", shared_files_hold, shared_files_check },
	{ "shared-fs", shared_fs_hold, shared_fs_check },
	{ "vfork", vfork_hold, NULL },
	{ "vfork-short", vfork_short_hold, NULL },
	{ "trap-process", trap_process_hold, NULL },
	{ "trap-thread", trap_thread_hold, NULL },
	{ "thread-cwd", thread_cwd_hold, thread_cwd_check },
	{ "thread-files", thread_files_hold, thread_files_check },
	{ "leader-gone", leader_gone_hold, leader_gone_check },
	{ "stopped", stopped_hold, NULL },
	{ "keep-caps", keep_caps_hold, keep_caps_check },
	{ "sched", sched_hold, sched_check },
	{ "left-group", left_group_hold, NULL },
	{ "death-chain", death_chain_hold, death_chain_check },
	{ "zombies", zombies_hold, zombies_check },
	{ 0 },
};
