/* subject.c - subject READY: one process of each kind, for criu to dump. The first has a second thread, a zombie and a subreaper below it.
 * Makes the file READY when all are there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void *stay(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int main(int argc, char **argv)
{
	siginfo_t info;
	pthread_t thread;
	pid_t zombie;

	close_range(0, ~0u, 0);
	if (argc != 2 || chdir("/") || setsid() < 0 || pthread_create(&thread, NULL, stay, NULL))
		return 1;
	zombie = fork();
	if (!zombie)
		_exit(3);
	waitid(P_PID, zombie, &info, WEXITED | WNOWAIT);
	if (!fork()) {
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		close(creat(argv[1], 0600));
	}
	stay(NULL);
}
