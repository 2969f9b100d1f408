/* attributes_process.c - what a process and its threads have besides memory and files. */
#include "attributes.h"
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define GROUP "process"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#define FUTEX_HASH 78 /* Linux 6.17 */
#define FUTEX_HASH_SET_SLOTS 1
#define FUTEX_HASH_GET_SLOTS 2
#define THP_EXCEPT_ADVISED 2 /* Linux 6.18 */
#define COMMAND_GET_REGISTRATIONS (1 << 9)

/* Values. */

static void put_prctl(struct value *v, int option)
{
	int n = prctl(option, 0, 0, 0, 0);

	if (n >= 0)
		put(v, "%d", n);
}

static void put_prctl_at(struct value *v, int option)
{
	long n = 0;

	if (!prctl(option, &n, 0, 0, 0))
		put(v, "%ld", n);
}

struct attr_of_scheduling { /* what sched_getattr(2) has; newer C libraries have it as sched_attr */
	uint32_t size, sched_policy;
	uint64_t sched_flags;
	int32_t sched_nice;
	uint32_t sched_priority;
	uint64_t sched_runtime, sched_deadline, sched_period;
	uint32_t sched_util_min, sched_util_max;
};

static struct attr_of_scheduling scheduling(void)
{
	struct attr_of_scheduling attr = { .size = sizeof attr };

	syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0);
	return attr;
}

static int schedule(struct attr_of_scheduling attr) { return syscall(SYS_sched_setattr, 0, &attr, 0); }

static int set_policy(void)
{
	struct attr_of_scheduling attr = scheduling();

	attr.sched_policy = SCHED_BATCH;
	return schedule(attr);
}

static int set_slice(void)
{
	struct attr_of_scheduling attr = scheduling();

	attr.sched_runtime = 5000000;
	return schedule(attr);
}

static int set_reset_on_fork(void)
{
	struct attr_of_scheduling attr = scheduling();

	attr.sched_flags |= SCHED_FLAG_RESET_ON_FORK;
	return schedule(attr);
}

static int set_utilization(void)
{
	struct attr_of_scheduling attr = scheduling();

	attr.sched_flags |= SCHED_FLAG_UTIL_CLAMP_MAX;
	attr.sched_util_max = 512;
	return schedule(attr);
}

static int set_affinity(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	return sched_setaffinity(0, sizeof set, &set);
}

static void put_affinity(struct value *v)
{
	unsigned long mask[16] = { 0 };

	if (syscall(SYS_sched_getaffinity, 0, sizeof mask, mask) > 0)
		put(v, "%lx", mask[0]);
}

static void put_autogroup(struct value *v)
{
	struct value line = { 0 };

	put_file(&line, "/proc/self/autogroup");
	if (line.size)
		put(v, "%s", strstr((char *)line.bytes, "nice"));
}

static char stack[2][65536];

static int set_stack(int n)
{
	return sigaltstack(&(stack_t){ .ss_sp = stack[n], .ss_size = sizeof stack[n] }, NULL);
}

static void put_stack(struct value *v)
{
	stack_t now;

	if (!sigaltstack(NULL, &now))
		put(v, "%p %zu %d", now.ss_sp, now.ss_size, now.ss_flags);
}

static int mask(int signal)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signal);
	return sigprocmask(SIG_BLOCK, &set, NULL);
}

static void put_mask(struct value *v)
{
	sigset_t set;

	sigprocmask(SIG_BLOCK, NULL, &set);
	put(v, "%d %d %d", sigismember(&set, SIGUSR1), sigismember(&set, SIGWINCH), sigismember(&set, SIGRTMIN + 3));
}

static int set_action(void)
{
	return sigaction(SIGCHLD, &(struct sigaction){ .sa_handler = SIG_IGN, .sa_flags = SA_NOCLDWAIT | SA_RESTART }, NULL);
}

static void put_action(struct value *v)
{
	struct sigaction now;

	if (!sigaction(SIGCHLD, NULL, &now))
		put(v, "%d %x", now.sa_handler == SIG_IGN, now.sa_flags);
}

/* What the kernel writes to when the process ends. */

static struct robust_list_head robust = { .list.next = &robust.list };
static int cleared = 1;

static void put_robust_list(struct value *v)
{
	void *head = NULL;
	size_t size;

	if (!syscall(SYS_get_robust_list, 0, &head, &size))
		put(v, "%p %zu", head, size);
}

/* Registered, if it cannot be registered elsewhere. */
static void put_rseq(struct value *v)
{
	static struct { unsigned fields[8]; } __attribute__((aligned(32))) area;

	if (syscall(SYS_rseq, &area, sizeof area, 0, 0x53053053) < 0)
		put(v, "%s", strerrorname_np(errno));
	else
		syscall(SYS_rseq, &area, sizeof area, 1, 0x53053053);
}

/* A system call that the process wants to make itself is not made, but signalled. */

static char selector;
static volatile int dispatched;

static void on_dispatch(int signal)
{
	(void)signal;
	selector = 0;
	dispatched++;
}

static int set_dispatch(void)
{
	signal(SIGSYS, on_dispatch);
	return prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &selector);
}

static void put_dispatch(struct value *v)
{
	dispatched = 0;
	selector = 1;
	getppid();
	selector = 0;
	put(v, "%d", dispatched);
}

/* Timers. */

static int set_itimer(int which)
{
	return setitimer(which, &(struct itimerval){ { 77, 0 }, { 4000, 0 } }, NULL);
}

static void put_itimer(struct value *v, int which)
{
	struct itimerval now;

	if (!getitimer(which, &now))
		put(v, "every %ld s, armed %d", (long)now.it_interval.tv_sec, now.it_value.tv_sec > 3000);
}

struct timer {
	clockid_t clock;
	int notify;
	timer_t id;
};

static int set_timer(const struct attribute *a)
{
	struct timer *t = (struct timer *)a->what;
	struct sigevent event = { .sigev_notify = t->notify, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 7 };

	event._sigev_un._tid = gettid();
	if (timer_create(t->clock, &event, &t->id))
		return -1;
	return timer_settime(t->id, 0, &(struct itimerspec){ { 88, 0 }, { 4000, 0 } }, NULL);
}

static void get_timer(const struct attribute *a, struct value *v)
{
	const struct timer *t = a->what;
	char text[4096] = "", id[32], *start, *end;
	struct itimerspec now;
	int fd = open("/proc/self/timers", O_RDONLY | O_CLOEXEC);

	snprintf(id, sizeof id, "ID: %d\n", (int)(intptr_t)t->id);
	if (fd < 0 || timer_gettime(t->id, &now))
		return;
	if (read(fd, text, sizeof text - 1) > 0 && (start = strstr(text, id))) {
		if ((end = strstr(start + 1, "ID: ")))
			*end = 0;
		put(v, "%s every %ld s, armed %d", start, (long)now.it_interval.tv_sec, now.it_value.tv_sec > 3000);
	}
	close(fd);
}

static struct timer timers[] = {
	{ CLOCK_REALTIME, SIGEV_SIGNAL, NULL },	 { CLOCK_MONOTONIC, SIGEV_NONE, NULL },
	{ CLOCK_BOOTTIME, 4, NULL },		 { CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, NULL },
	{ CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, NULL }, { CLOCK_TAI, SIGEV_SIGNAL, NULL },
};
static const char *const timer_names[] = { "timer_create CLOCK_REALTIME SIGEV_SIGNAL", "timer_create CLOCK_MONOTONIC SIGEV_NONE",
	"timer_create CLOCK_BOOTTIME SIGEV_THREAD_ID", "timer_create CLOCK_PROCESS_CPUTIME_ID",
	"timer_create CLOCK_THREAD_CPUTIME_ID", "timer_create CLOCK_TAI" };

/* Limits: the soft one becomes another. */

struct limit {
	const char *name;
	int which;
	rlim_t soft;
};

static int set_limit(const struct attribute *a)
{
	const struct limit *l = a->what;
	struct rlimit now;

	if (getrlimit(l->which, &now))
		return -1;
	now.rlim_cur = l->soft < now.rlim_max ? l->soft : now.rlim_max / 2;
	return setrlimit(l->which, &now);
}

static void get_limit(const struct attribute *a, struct value *v)
{
	const struct limit *l = a->what;
	struct rlimit now;

	if (!getrlimit(l->which, &now))
		put(v, "%lu %lu", now.rlim_cur, now.rlim_max);
}

static const struct limit limits[] = {
	{ "RLIMIT_CPU", RLIMIT_CPU, 86400 },	       { "RLIMIT_FSIZE", RLIMIT_FSIZE, 1UL << 40 },
	{ "RLIMIT_DATA", RLIMIT_DATA, 1UL << 45 },     { "RLIMIT_STACK", RLIMIT_STACK, 7 << 20 },
	{ "RLIMIT_CORE", RLIMIT_CORE, 4096 },	       { "RLIMIT_RSS", RLIMIT_RSS, 1UL << 41 },
	{ "RLIMIT_NPROC", RLIMIT_NPROC, 30000 },       { "RLIMIT_NOFILE", RLIMIT_NOFILE, 333 },
	{ "RLIMIT_MEMLOCK", RLIMIT_MEMLOCK, 5 << 20 }, { "RLIMIT_AS", RLIMIT_AS, 1UL << 46 },
	{ "RLIMIT_LOCKS", RLIMIT_LOCKS, 500 },	       { "RLIMIT_SIGPENDING", RLIMIT_SIGPENDING, 999 },
	{ "RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE, 100000 }, { "RLIMIT_RTTIME", RLIMIT_RTTIME, 1000000 },
};

/* Those of the first thread, and those that all threads have in common. */
#define PROCESS(X)                                                                                                      \
	X(comm, "PR_SET_NAME", prctl(PR_SET_NAME, "attributes"), put_file(v, "/proc/self/comm"))                            \
	X(slack, "PR_SET_TIMERSLACK", prctl(PR_SET_TIMERSLACK, 123456), put_prctl(v, PR_GET_TIMERSLACK))                \
	X(oom, "oom_score_adj", write_file("/proc/self/oom_score_adj", "321"), put_file(v, "/proc/self/oom_score_adj")) \
	X(core, "coredump_filter", write_file("/proc/self/coredump_filter", "0x11"),                                    \
	  put_file(v, "/proc/self/coredump_filter"))                                                                    \
	X(autogroup, "autogroup", write_file("/proc/self/autogroup", "5"), put_autogroup(v))                            \
	X(niceness, "nice", setpriority(PRIO_PROCESS, 0, 15), put(v, "%d", scheduling().sched_nice))                     \
	X(policy, "sched_setattr policy", set_policy(), put(v, "%u", scheduling().sched_policy))                        \
	X(slice, "sched_setattr slice", set_slice(), put(v, "%lu", scheduling().sched_runtime))                        \
	X(fork_flag, "SCHED_FLAG_RESET_ON_FORK", set_reset_on_fork(), put(v, "%lx", scheduling().sched_flags))         \
	X(clamp, "SCHED_FLAG_UTIL_CLAMP", set_utilization(), put(v, "%u", scheduling().sched_util_max))                 \
	X(ioprio, "ioprio_set", syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6), put(v, "%lx", syscall(SYS_ioprio_get, 1, 0))) \
	X(affinity, "sched_setaffinity", set_affinity(), put_affinity(v))                                               \
	X(person, "personality", personality(UNAME26) < 0 ? -1 : 0, put(v, "%x", personality(0xffffffff)))              \
	X(umask_, "umask", (umask(0137), 0), put_umask(v))                                                              \
	X(keep_caps, "PR_SET_KEEPCAPS", prctl(PR_SET_KEEPCAPS, 1), put_prctl(v, PR_GET_KEEPCAPS))                       \
	X(death, "PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGUSR1), put_prctl_at(v, PR_GET_PDEATHSIG))               \
	X(subreaper, "PR_SET_CHILD_SUBREAPER", prctl(PR_SET_CHILD_SUBREAPER, 1), put_prctl_at(v, PR_GET_CHILD_SUBREAPER)) \
	X(huge, "PR_SET_THP_DISABLE", prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), put_prctl(v, PR_GET_THP_DISABLE))          \
	X(huge_advised, "PR_THP_DISABLE_EXCEPT_ADVISED", prctl(PR_SET_THP_DISABLE, 1, THP_EXCEPT_ADVISED, 0, 0),        \
	  put_prctl(v, PR_GET_THP_DISABLE))                                                                             \
	X(new_privs, "PR_SET_NO_NEW_PRIVS", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -1 : CREATED, put_prctl(v, PR_GET_NO_NEW_PRIVS))  \
	X(exec_gain, "PR_SET_MDWE", prctl(PR_SET_MDWE, 1, 0, 0, 0), put_prctl(v, PR_GET_MDWE))                          \
	X(merge, "PR_SET_MEMORY_MERGE", prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0), put_prctl(v, PR_GET_MEMORY_MERGE))      \
	X(machine_check, "PR_MCE_KILL", prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0),                   \
	  put_prctl(v, PR_MCE_KILL_GET))                                                                                \
	X(speculation, "PR_SET_SPECULATION_CTRL", prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0), \
	  put(v, "%d", prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0)))                                  \
	X(futex_slots, "PR_FUTEX_HASH", prctl(FUTEX_HASH, FUTEX_HASH_SET_SLOTS, 64, 0, 0),                              \
	  put(v, "%d", prctl(FUTEX_HASH, FUTEX_HASH_GET_SLOTS, 0, 0, 0)))                                               \
	X(tid, "set_tid_address", (syscall(SYS_set_tid_address, &cleared), 0), put_prctl_at(v, PR_GET_TID_ADDRESS))     \
	X(robust_, "set_robust_list", syscall(SYS_set_robust_list, &robust, sizeof robust), put_robust_list(v))         \
	X(stack_, "sigaltstack", set_stack(0), put_stack(v))                                                            \
	X(mask_, "sigprocmask", mask(SIGUSR1), put_mask(v))                                                             \
	X(action, "sigaction", set_action(), put_action(v))                                                             \
	X(barrier, "membarrier", syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0),              \
	  put(v, "%lx", syscall(SYS_membarrier, COMMAND_GET_REGISTRATIONS, 0, 0)))                                      \
	X(real, "ITIMER_REAL", set_itimer(ITIMER_REAL), put_itimer(v, ITIMER_REAL))                                     \
	X(virt, "ITIMER_VIRTUAL", set_itimer(ITIMER_VIRTUAL), put_itimer(v, ITIMER_VIRTUAL))                            \
	X(prof, "ITIMER_PROF", set_itimer(ITIMER_PROF), put_itimer(v, ITIMER_PROF))                                     \
	X(cwd, "chdir", chdir("/tmp"), put_cwd(v))                                                                      \
	X(policy_numa, "set_mempolicy", syscall(SYS_set_mempolicy, 1, &(long){ 1 }, 64), put_memory_policy(v))

/* Those that each thread has for itself. */
#define THREAD(X)                                                                                                       \
	X(t_comm, "PR_SET_NAME", prctl(PR_SET_NAME, "another"), put_thread_name(v))                                     \
	X(t_slack, "PR_SET_TIMERSLACK", prctl(PR_SET_TIMERSLACK, 654321), put_prctl(v, PR_GET_TIMERSLACK))              \
	X(t_nice, "nice", setpriority(PRIO_PROCESS, 0, 17), put(v, "%d", scheduling().sched_nice))                       \
	X(t_policy, "sched_setattr policy", set_policy(), put(v, "%u", scheduling().sched_policy))                      \
	X(t_slice, "sched_setattr slice", set_slice(), put(v, "%lu", scheduling().sched_runtime))                      \
	X(t_fork_flag, "SCHED_FLAG_RESET_ON_FORK", set_reset_on_fork(), put(v, "%lx", scheduling().sched_flags))       \
	X(t_ioprio, "ioprio_set", syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 7), put(v, "%lx", syscall(SYS_ioprio_get, 1, 0))) \
	X(t_affinity, "sched_setaffinity", set_affinity(), put_affinity(v))                                             \
	X(t_death, "PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGUSR2), put_prctl_at(v, PR_GET_PDEATHSIG))             \
	X(t_machine_check, "PR_MCE_KILL", prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0),                  \
	  put_prctl(v, PR_MCE_KILL_GET))                                                                                \
	X(t_counter, "PR_SET_TSC", prctl(PR_SET_TSC, PR_TSC_SIGSEGV), put_prctl_at(v, PR_GET_TSC))                      \
	X(t_stack, "sigaltstack", set_stack(1), put_stack(v))                                                           \
	X(t_mask, "sigprocmask", mask(SIGRTMIN + 3), put_mask(v))                                                       \
	X(t_rseq, "rseq", CREATED, put_rseq(v))

static void put_umask(struct value *v)
{
	mode_t now = umask(0);

	umask(now);
	put(v, "%o", now);
}

static void put_cwd(struct value *v)
{
	char path[200];

	if (getcwd(path, sizeof path))
		put(v, "%s", path);
}

static void put_thread_name(struct value *v)
{
	char name[17] = "";

	if (!prctl(PR_GET_NAME, name))
		put(v, "%s", name);
}

static void put_memory_policy(struct value *v)
{
	unsigned long nodes[16] = { 0 };
	int mode;

	if (!syscall(SYS_get_mempolicy, &mode, nodes, sizeof nodes * 8, NULL, 0))
		put(v, "%d %lx", mode, nodes[0]);
}

#define REFUSED(X) X(dispatch, "PR_SET_SYSCALL_USER_DISPATCH", set_dispatch(), put_dispatch(v))

PROCESS(DEFINE_ATTRIBUTE)
THREAD(DEFINE_ATTRIBUTE)
REFUSED(DEFINE_ATTRIBUTE)

void add_process_attributes(void)
{
	for (size_t i = 0; i < sizeof timers / sizeof *timers; i++)
		add((struct attribute){ GROUP, timer_names[i], set_timer, get_timer, &timers[i], -1, false });
	for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
		add((struct attribute){ GROUP, limits[i].name, set_limit, get_limit, &limits[i], -1, false });
	PROCESS(ADD_ATTRIBUTE)
	THREAD(ADD_THREAD_ATTRIBUTE)
	REFUSED(ADD_REFUSED_ATTRIBUTE)
}
