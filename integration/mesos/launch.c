/*
 * launch - stands where `mesos-containerizer launch` and the command executor stand: between the container's first process and the task.
 *
 *   launch [-s] COMMAND...
 *
 * Executes COMMAND in a child (-s: that leads a session of its own, as the command executor's task does), passes signals on to it, reaps
 * what else becomes its child, and ends with its status. A stand-in for the test, in the order of Mesos' launch.cpp; not Mesos' code.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t task;

static void forward(int signal)
{
	if (task > 0)
		kill(task, signal);
}

int main(int argc, char **argv)
{
	int status, leads = argc > 1 && !strcmp(argv[1], "-s");
	struct sigaction action = { .sa_handler = forward, .sa_flags = SA_RESTART };
	pid_t ended;

	for (int signal = 1; signal <= SIGRTMAX; signal++)
		if (signal != SIGCHLD && signal != SIGKILL && signal != SIGSTOP)
			sigaction(signal, &action, NULL);
	task = fork();
	if (task == 0) {
		if (leads)
			setsid();
		execvp(argv[1 + leads], argv + 1 + leads);
		_exit(127);
	}
	do
		ended = waitpid(-1, &status, 0);
	while (ended != task);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
