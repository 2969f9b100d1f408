/*
 * harness.c - runs criu's clock-insn.c and clock-sites.c on the executable segment of an ELF file.
 *
 *   harness lengths FILE   reads addresses in hexadecimal digits, a line each; prints the length of the instruction there
 *   harness sites FILE     prints each site: its address, call, length of the window (0: out of reach), and 1 if the register
 *                          with the time is read again
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "clock-insn.h"
#include "clock-sites.h"

static const uint8_t *file;
static uint64_t start; /* address of the text */
static struct text text;

/* In bytes: from the description in .eh_frame that the last line of .eh_frame_hdr's table names. */
static uint32_t size_of_last(const uint8_t *table, uint32_t count)
{
	uint32_t size;
	int32_t rel;

	memcpy(&rel, table + 12 + 8 * (count - 1) + 4, 4);
	memcpy(&size, table + rel + 12, 4);
	return size;
}

static void find_functions(const Elf64_Phdr *head)
{
	const uint8_t *at = file + head->p_offset;
	uint64_t *functions;
	uint32_t count;

	memcpy(&count, at + 8, 4);
	functions = malloc(count * sizeof *functions);
	for (uint32_t i = 0; i < count; i++) {
		int32_t rel;

		memcpy(&rel, at + 12 + 8 * i, 4);
		if (head->p_vaddr + rel - start < text.size)
			functions[text.nr_functions++] = head->p_vaddr + rel - start;
	}
	text.functions = functions;
	if (text.nr_functions)
		text.functions_end = functions[text.nr_functions - 1] + size_of_last(at, count);
}

static int open_file(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	const Elf64_Ehdr *h;
	const Elf64_Phdr *ph;

	if (fd < 0 || fstat(fd, &st))
		return -1;
	file = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	h = (const void *)file;
	ph = (const void *)(file + h->e_phoff);
	for (int i = 0; i < h->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD && ph[i].p_flags & PF_X) {
			text.code = file + ph[i].p_offset;
			text.size = ph[i].p_filesz;
			start = ph[i].p_vaddr;
		}
	for (int i = 0; i < h->e_phnum; i++)
		if (ph[i].p_type == PT_GNU_EH_FRAME)
			find_functions(&ph[i]);
	return text.code ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct clock_sites found;
	unsigned long at;
	struct insn i;

	if (argc < 3 || open_file(argv[2]))
		return 2;
	if (!strcmp(argv[1], "lengths"))
		while (scanf("%lx", &at) == 1)
			printf("%d\n", insn_decode(text.code + (at - start), text.size - (at - start), &i));
	else if (clock_sites_find(&text, &found))
		return 1;
	else
		for (int k = 0; k < found.count; k++)
			printf("%lx %d %d %d\n", (long)(start + found.sites[k].offset), (int)found.sites[k].call,
			       found.sites[k].is_out_of_reach ? 0 : found.sites[k].length, found.sites[k].reads_again);
	return 0;
}
