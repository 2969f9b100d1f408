/*
 * states.h - the kinds of objects that the shape `states` holds in random states.
 *
 * A kind makes an object from a number, which decides all of its attributes, and tells what it
 * sees of it. Telling changes nothing, so what is told before a move is what must be told after it.
 */
#pragma once
#include "../services/service.h"
#include <stdbool.h>
#include <sys/stat.h>

enum { HELD = 6 };

struct object {
	const struct kind *kind;
	unsigned number;
	uint64_t random; /* what draw() goes on from */
	int error;	 /* why it is not there: what the container does not allow */
	char name[24];	 /* of its own, among all objects of the container */
	char path[64];
	int fd[HELD], fds;
	pid_t pid[HELD];
	char *memory;
	size_t size;
	long note[4];
};

struct kind {
	const char *name;
	int (*make)(struct object *o);	 /* -1 with errno where it cannot */
	void (*tell)(struct object *o);
};

/* Each ends with a kind without a name. */
extern const struct kind event_kinds[];	  /* events.c */
extern const struct kind file_kinds[];	  /* files.c */
extern const struct kind ipc_kinds[];	  /* ipc.c */
extern const struct kind memory_kinds[];  /* memory.c */
extern const struct kind network_kinds[]; /* network.c */
extern const struct kind pipe_kinds[];	  /* pipes.c */
extern const struct kind process_kinds[]; /* processes.c */
extern const struct kind signal_kinds[];  /* signals.c */
extern const struct kind special_kinds[]; /* special.c */
extern const struct kind tree_kinds[];	  /* trees.c */
extern const struct kind unix_kinds[];	  /* unix.c */

/* The next random number of the object, below `limit`. */
unsigned draw(struct object *o, unsigned limit);
bool toss(struct object *o);
/* One of a list, given as its values. */
#define PICK(o, ...) ((const long[]){ __VA_ARGS__ }[draw(o, sizeof((const long[]){ __VA_ARGS__ }) / sizeof(long))])

/* Adds a line to the description. */
void tell(struct object *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What every descriptor has; `status` leaves out what the kernel changes by itself. */
void tell_descriptors(struct object *o);
void tell_bytes(struct object *o, const char *what, const void *data, ssize_t size);

/* Keeps a descriptor, with a random number and a random FD_CLOEXEC. The same -1 if it is none. */
int keep(struct object *o, int fd);

/* A path of its own, in a random folder that a container has of its own. */
const char *new_path(struct object *o, const char *suffix);
/* Fills with random bytes that depend on the object alone. */
void fill(struct object *o, void *data, size_t size);
