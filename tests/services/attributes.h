/*
 * attributes.h - the attributes of a process that the shape `attributes` gives values of its own.
 *
 * An attribute is whatever an ordinary process can set and read. docs/reference/attributes.md has
 * a row for each.
 */
#pragma once
#include "service.h"
#include <stdbool.h>

struct value {
	size_t size;
	unsigned char bytes[232];
};

/* From set(): it has had its value since it was made. */
enum { CREATED = 1 };

struct attribute {
	const char *group, *name;
	int (*set)(const struct attribute *);		       /* 0, CREATED, or -1 with errno */
	void (*get)(const struct attribute *, struct value *); /* leaves it empty where it cannot */
	const void *what;				       /* for set and get */
	int fd;
	bool in_thread; /* of a thread other than the first */
};

/* Each calls add() for all of its attributes, in the order in which they are set. */
void add(struct attribute attribute);
void add_process_attributes(void); /* attributes_process.c */
void add_memory_attributes(void);  /* attributes_memory.c */
void add_file_attributes(void);	   /* attributes_files.c */
void add_socket_attributes(void);  /* attributes_sockets.c */

/* For get(). */
void put(struct value *value, const char *format, ...) __attribute__((format(printf, 2, 3)));
void put_file(struct value *value, const char *path); /* its first line */

/* For set(). */
int write_file(const char *path, const char *text);

/* Defines id_set and id_get of an expression and a statement, for the list LIST(X) of a file. */
#define DEFINE_ATTRIBUTE(id, name, set, get)                                                          \
	static int id##_set(const struct attribute *a) { (void)a; return set; }                       \
	static void id##_get(const struct attribute *a, struct value *v) { (void)a, (void)v; get; }
#define ADD_ATTRIBUTE(id, name, set, get) add((struct attribute){ GROUP, name, id##_set, id##_get, NULL, -1, false });
#define ADD_THREAD_ATTRIBUTE(id, name, set, get) add((struct attribute){ "thread", name, id##_set, id##_get, NULL, -1, true });
#define ADD_REFUSED_ATTRIBUTE(id, name, set, get) add((struct attribute){ "refused", name, id##_set, id##_get, NULL, -1, false });
