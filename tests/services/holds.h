/* holds.h - the objects that the shape `holds` can have, one at a time. */
#pragma once
#include "service.h"

struct object {
	const char *name;
	void (*hold)(void);  /* makes it, or calls cannot() */
	void (*check)(void); /* fail() if it is not as it was; NULL where there is nothing to see */
};

/* Each ends with an object without a name. */
extern const struct object file_objects[];   /* holds_files.c */
extern const struct object mapping_objects[]; /* holds_mappings.c */
extern const struct object memory_objects[]; /* holds_memory.c */
extern const struct object mode_objects[];   /* holds_modes.c */
extern const struct object socket_objects[]; /* holds_sockets.c */
extern const struct object tcp_objects[];    /* holds_tcp.c */
extern const struct object task_objects[];   /* holds_tasks.c */
extern const struct object terminal_objects[]; /* holds_terminals.c */
extern const struct object volume_objects[]; /* holds_volumes.c */

int had(int fd, const char *what); /* fd, or cannot(what) */
