/*
 * service.h - what the shapes of `service` share. A shape is one kind of program that a
 * checkpoint must bring back whole; it looks after its own state and can say at any
 * time whether that is still right. See main.c for the command line.
 */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct shape {
	const char *name, *arguments;
	void (*start)(int argc, char **argv); /* argv[0] is the first argument of the shape */
	void (*tick)(void);		      /* about every 10 ms; may be NULL */
	void (*verify)(void);		      /* calls fail() or say() */
	int (*word)(const char *word);	      /* a request of its own: 0 if unknown; may be NULL */
};

extern const struct shape one, big, signals, iouring; /* simple.c */
extern const struct shape sysv;			    /* system_v.c */
extern const struct shape prefork, daemon_shape, sessions;  /* tree.c */
extern const struct shape threads, mixed;		    /* threads.c */
extern const struct shape files;			    /* files.c */
extern const struct shape holds;			    /* holds.c */
extern const struct shape random_shape;			    /* random.c */
extern const struct shape clock_shape;			    /* clock.c */
extern const struct shape clock_waits;		    /* clock_waits.c */
extern const struct shape reads;			    /* reads.c */
extern const struct shape sockets;			    /* sockets.c */
extern const struct shape waits;			    /* waits.c */
extern const struct shape timers_shape;		    /* timers.c */
extern const struct shape registers;			    /* registers.c */
extern const struct shape attributes;		    /* attributes.c */
extern const struct shape writers;			    /* writers.c */
extern const struct shape calm;			    /* calm.c */
extern const struct shape changes;			    /* changes.c */
extern const struct shape states;			    /* ../states/states.c */

/* Adds "key=value" to the answer. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Makes this and every later answer an error, from any process or thread; the first one counts. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the program when it cannot begin: the container does not allow what the shape needs. */
void cannot(const char *what) __attribute__((noreturn));
/* Begins a thread with a small stack, as some shapes have many. */
pthread_t small_thread(void *(*body)(void *), void *arg);

/* A counter for each process or thread, shared by all, by which it shows that it lives. */
enum { MAX_BEATS = 512 };
extern atomic_long *beats;
void await_beats(int n); /* until the first n have gone on; fail() after 5 s */

void nap(void); /* 10 ms */

/* Who a process or thread is, in every respect that others can see. */
struct identity {
	pid_t pid, ppid, sid, pgid, tid;
};
struct identity identity(void);
void check_identity(const struct identity *before, const char *who);

/* fork() in which the child runs body(arg) for ever, without the listening socket. */
pid_t fork_child(void (*body)(int), int arg);

/* Unmaps whatever /proc/self/maps has with this name in it. */
void unmap_all(const char *name);

uint64_t checksum(const void *data, size_t size);
