/*
 * attributes.c - the shape that sets every attribute to a value of its own, and names those that
 * have another value by now.
 *
 *   service attributes WHICH…    those of a group, or of this name
 *   service attributes list      prints "GROUP NAME" of all, and exits
 *
 * verify counts. The word "changed" answers the attributes with another value than before, and
 * "absent" those that cannot be set here: "GROUP NAME (was, is)" and "GROUP NAME (error)".
 */
#include "attributes.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>

enum { MAX = 600 };
static struct held {
	struct attribute attribute;
	struct value value;
	int error; /* why it could not be set */
} all[MAX];
static int count;

void add(struct attribute attribute)
{
	if (count == MAX)
		cannot("so many attributes");
	all[count++].attribute = attribute;
}

void put(struct value *value, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf((char *)value->bytes, sizeof value->bytes, format, args);
	va_end(args);
	value->size = n < (int)sizeof value->bytes ? n : (int)sizeof value->bytes - 1;
}

void put_file(struct value *value, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char line[200] = "";

	if (fd < 0)
		return;
	if (read(fd, line, sizeof line - 1) > 0)
		put(value, "%.*s", (int)strcspn(line, "\n"), line);
	close(fd);
}

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), n, error;

	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	error = errno;
	close(fd);
	errno = error;
	return n < 0 ? -1 : 0;
}

/* The other thread does what it is given, and else waits without any system call of its own kind. */

static sem_t given, done;
static void (*task)(struct held *);
static struct held *task_of;

static void *worker(void *arg)
{
	for (;;) {
		while (sem_wait(&given))
			;
		task(task_of);
		sem_post(&done);
	}
	return arg;
}

static void act(void (*what)(struct held *), struct held *held)
{
	if (!held->attribute.in_thread)
		return what(held);
	task = what, task_of = held;
	sem_post(&given);
	while (sem_wait(&done))
		;
}

static void set(struct held *held)
{
	struct value before = { 0 };
	int set;

	held->attribute.get(&held->attribute, &before);
	set = held->attribute.set(&held->attribute);
	held->attribute.get(&held->attribute, &held->value);
	if (set < 0 || !held->value.size)
		held->error = errno;
	else if (set != CREATED && !memcmp(&before, &held->value, sizeof before))
		held->error = EALREADY; /* nothing would show */
}

/* Setting others may have changed it. */
static void record(struct held *held)
{
	if (!held->error)
		held->attribute.get(&held->attribute, &held->value);
}

static void words_of(char *text, size_t size, const struct value *value)
{
	bool printable = value->size > 0;
	size_t used = 0;

	for (size_t i = 0; i < value->size; i++)
		printable = printable && (value->bytes[i] == '\t' || (value->bytes[i] >= ' ' && value->bytes[i] < 127));
	if (printable)
		snprintf(text, size, "%.*s", (int)value->size, value->bytes);
	else
		for (*text = 0, used = 0; used / 2 < value->size && used + 3 < size; used += 2)
			sprintf(text + used, "%02x", value->bytes[used / 2]);
}

static void compare(struct held *held)
{
	struct value now = { 0 };
	char was[128], is[128];

	if (held->error)
		return;
	held->attribute.get(&held->attribute, &now);
	if (now.size == held->value.size && !memcmp(now.bytes, held->value.bytes, now.size))
		return;
	words_of(was, sizeof was, &held->value);
	words_of(is, sizeof is, &now);
	say("%s %s (%s, %s);", held->attribute.group, held->attribute.name, was, is);
}

static bool wanted(const struct attribute *attribute, char **which)
{
	while (*which && strcmp(*which, attribute->group) && strcmp(*which, attribute->name))
		which++;
	return *which;
}

static void attributes_start(int argc, char **argv)
{
	pthread_t thread;
	int kept = 0;

	if (sem_init(&given, 0, 0) || sem_init(&done, 0, 0) || pthread_create(&thread, NULL, worker, NULL))
		cannot("a thread");
	add_file_attributes();
	add_socket_attributes();
	add_memory_attributes();
	add_process_attributes();
	if (argc == 1 && !strcmp(argv[0], "list")) {
		for (int i = 0; i < count; i++)
			printf("%s %s\n", all[i].attribute.group, all[i].attribute.name);
		exit(0);
	}
	for (int i = 0; i < count; i++)
		if (wanted(&all[i].attribute, argv))
			all[kept++] = all[i];
	count = kept;
	for (int i = 0; i < count; i++)
		act(set, &all[i]);
	for (int i = 0; i < count; i++)
		act(record, &all[i]);
}

static void attributes_verify(void)
{
	int absent = 0;

	for (int i = 0; i < count; i++)
		absent += all[i].error != 0;
	say("attributes=%d absent=%d", count, absent);
}

static int attributes_word(const char *word)
{
	if (!strcmp(word, "changed"))
		for (int i = 0; i < count; i++)
			act(compare, &all[i]);
	else if (!strcmp(word, "absent"))
		for (int i = 0; i < count; i++) {
			const struct attribute *a = &all[i].attribute;

			if (all[i].error)
				say("%s %s (%s);", a->group, a->name, strerror(all[i].error));
		}
	else
		return 0;
	return 1;
}

const struct shape attributes = { "attributes", "WHICH...", attributes_start, NULL, attributes_verify, attributes_word };
