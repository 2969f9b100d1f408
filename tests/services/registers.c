/*
 * registers.c - registers: threads that compute, and so are stopped with every register in use. Each fills the registers with
 * what it knows, counts down in one of them, and looks at the others. It makes no system call meanwhile, as one may change some.
 */
#include "service.h"
#include <pthread.h>
#include <sys/auxv.h>

enum { WORDS = 2048, ROUND = 1 << 20 };

/* spin(INITIAL, FINAL, COUNT) loads the registers, counts down, and stores them. Both have the registers as the code below says. */
#if defined(__aarch64__)

void spin(const void *initial, void *final, uint64_t count);
void spin_sve(const void *initial, void *final, uint64_t count);
uint64_t vector_bytes(void);

/* x1 to x30 at 8 * N. The V registers are at 256, the Z registers in their place; P registers and FFR at 8448. */
__asm__(".arch armv8.2-a+sve\n"
	".macro enter\n"
	"stp x29, x30, [sp, -192]!\n"
	"stp x19, x20, [sp, 16]\n stp x21, x22, [sp, 32]\n stp x23, x24, [sp, 48]\n stp x25, x26, [sp, 64]\n stp x27, x28, [sp, 80]\n"
	"stp d8, d9, [sp, 96]\n stp d10, d11, [sp, 112]\n stp d12, d13, [sp, 128]\n stp d14, d15, [sp, 144]\n"
	"str x1, [sp, 160]\n"
	".endm\n"
	".macro turn\n"
	"mov x30, x0\n mov x0, x2\n"
	".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29\n ldr x\\n, [x30, 8 * \\n]\n .endr\n"
	"ldr x30, [x30, 240]\n"
	"1: subs x0, x0, 1\n b.ne 1b\n"
	"str x30, [sp, 168]\n ldr x30, [sp, 160]\n"
	".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29\n str x\\n, [x30, 8 * \\n]\n .endr\n"
	"mov x1, x30\n ldr x2, [sp, 168]\n str x2, [x1, 240]\n"
	".endm\n"
	".macro leave\n"
	"ldp d8, d9, [sp, 96]\n ldp d10, d11, [sp, 112]\n ldp d12, d13, [sp, 128]\n ldp d14, d15, [sp, 144]\n"
	"ldp x19, x20, [sp, 16]\n ldp x21, x22, [sp, 32]\n ldp x23, x24, [sp, 48]\n ldp x25, x26, [sp, 64]\n ldp x27, x28, [sp, 80]\n"
	"ldp x29, x30, [sp], 192\n ret\n"
	".endm\n"
	".macro each insn, kind, from\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n \\insn \\kind\\n, [\\from, \\n, mul vl]\n .endr\n"
	".endm\n"
	".macro each_z insn, from\n"
	"each \\insn, z, \\from\n"
	".irp n,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n \\insn z\\n, [\\from, \\n, mul vl]\n .endr\n"
	".endm\n"
	".macro each_q insn\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"\\insn q\\n, [x3, 16 * \\n]\n .endr\n"
	".endm\n"
	"spin:\n enter\n add x3, x0, 256\n each_q ldr\n turn\n add x3, x1, 256\n each_q str\n leave\n"
	"spin_sve:\n enter\n"
	"add x3, x0, 256\n each_z ldr, x3\n"
	"mov x4, 8448\n add x3, x0, x4\n ldr p0, [x3, 16, mul vl]\n wrffr p0.b\n each ldr, p, x3\n"
	"turn\n"
	"add x3, x1, 256\n each_z str, x3\n"
	"mov x4, 8448\n add x3, x1, x4\n each str, p, x3\n rdffr p0.b\n str p0, [x3, 16, mul vl]\n"
	"leave\n"
	"vector_bytes: cntb x0\n ret\n");

static int has_sve;

static void turn(const void *initial, void *final)
{
	if (has_sve)
		spin_sve(initial, final, ROUND);
	else
		spin(initial, final, ROUND);
}

static void prepare(uint64_t *initial, uint64_t number)
{
	size_t vector = 16, predicates = 0;
	unsigned char *first = (unsigned char *)initial;

	has_sve = !!(getauxval(AT_HWCAP) & HWCAP_SVE);
	if (has_sve) {
		vector = vector_bytes();
		predicates = vector / 8;
	}
	for (int i = 1; i <= 30; i++)
		initial[i] = number << 32 | 0x5a000000 | i;
	for (size_t i = 0; i < 32 * vector; i++)
		first[256 + i] = i * 7 + number;
	for (size_t i = 0; i < 16 * predicates; i++)
		first[8448 + i] = i * 5 + number + 1;
	/* FFR is of ones, then zeros. */
	if (predicates)
		first[8448 + 16 * predicates] = 0x7f;
}

#else

void spin(const void *initial, void *final, uint64_t count);

/* The registers in the order of the list below, at 8 * N; xmm0 to xmm15 at 256. */
__asm__(".macro general insn\n .irp r,rbx,rcx,rdx,rsi,rbp,r8,r9,r10,r11,r12,r13,r14,r15,rdi\n \\insn \\r\n .endr\n .endm\n"
	".macro get r\n mov 8 * n(%rdi), %\\r\n n = n + 1\n .endm\n"
	".macro put r\n mov %\\r, 8 * n(%rax)\n n = n + 1\n .endm\n"
	".macro each_xmm\n"
	"spin:\n"
	"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rsi\n"
	"mov %rdx, %rax\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups 256 + 16 * \\n(%rdi), %xmm\\n\n .endr\n"
	"n = 1\n general get\n"
	"1: dec %rax\n jnz 1b\n"
	"pop %rax\n"
	"n = 1\n general put\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups %xmm\\n, 256 + 16 * \\n(%rax)\n .endr\n"
	"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
	".endm\n each_xmm\n");

static void turn(const void *initial, void *final)
{
	spin(initial, final, ROUND);
}

static void prepare(uint64_t *initial, uint64_t number)
{
	unsigned char *first = (unsigned char *)initial;

	for (int i = 1; i <= 14; i++)
		initial[i] = number << 32 | 0x5a000000 | i;
	for (int i = 0; i < 256; i++)
		first[256 + i] = i * 7 + number;
}

#endif

/* One round of a thread. */
static void look(long number)
{
	static __thread uint64_t initial[WORDS], final[WORDS];

	memset(initial, 0, sizeof initial);
	memset(final, 0, sizeof final);
	prepare(initial, number + 1);
	turn(initial, final);
	for (int i = 0; i < WORDS; i++)
		if (initial[i] != final[i])
			fail("word %d of the registers of thread %ld was %#lx, is %#lx", i, number, initial[i], final[i]);
	beats[number]++;
}

static void *body(void *number)
{
	for (;;)
		look((long)number);
	return NULL;
}

static int count;

static void start(int argc, char **argv)
{
	pthread_t thread;

	count = argc > 0 ? atoi(argv[0]) : 2;
	for (long i = 0; i < count; i++)
		if (pthread_create(&thread, NULL, body, (void *)i))
			cannot("pthread_create");
}

static void tick(void)
{
	look(count);
}

static void verify(void)
{
	await_beats(count);
	say("rounds=%ld", (long)beats[count]);
}

const struct shape registers = { "registers", "THREADS", start, tick, verify, NULL };
