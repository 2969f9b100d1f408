/* holds.c - the shape that holds one object which a checkpoint may have trouble with. */
#include "holds.h"

static const struct object *const lists[] = { file_objects,	  mapping_objects, memory_objects,
					     mode_objects,	  socket_objects,  task_objects,
					     tcp_objects,	  terminal_objects, volume_objects };
static const struct object *held;

int had(int fd, const char *what)
{
	if (fd < 0)
		cannot(what);
	return fd;
}

static void holds_start(int argc, char **argv)
{
	for (size_t i = 0; argc > 0 && i < sizeof lists / sizeof *lists; i++)
		for (const struct object *o = lists[i]; o->name; o++)
			if (!strcmp(o->name, argv[0]))
				held = o;
	if (!held) {
		errno = EINVAL;
		cannot("holding that");
	}
	held->hold();
}

static void holds_verify(void)
{
	if (held->check)
		held->check();
}

const struct shape holds = { "holds", "OBJECT", holds_start, NULL, holds_verify, NULL };
