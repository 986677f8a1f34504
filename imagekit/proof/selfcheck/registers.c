/*
 * Process 1 of a guest that counts wrong registers.
 *
 * Two processes fill their SSE registers, make dom0 work by a byte on the console, give it time to
 * take the processor, and let the other one run. The kernel then saves and restores registers
 * (XSAVE, XRSTOR), and both must find what they had. It prints "LAB-REGISTERS wrong=N of=M", where
 * M counts rounds, and waits to be destroyed.
 *
 * No libc: the initrd holds this file alone. System calls: Linux arch/x86/entry/syscalls.
 */

enum { SYS_write = 1, SYS_mmap = 9, SYS_pause = 34, SYS_sched_yield = 24, SYS_nanosleep = 35,
       SYS_fork = 57, SYS_kill = 62 };
enum { EVERYBODY = -1, SIGKILL = 9 };
enum { PROT_READ_WRITE = 3, MAP_SHARED_ANONYMOUS = 0x21 };
enum { PROCESSES = 2, ROUNDS = 150, REGISTERS = 16 };

/* About 2 ms at the 4 ns for an instruction that the lab's clock counts. */
enum { SPIN = 250000 };

struct count {
	volatile unsigned long rounds, wrong;
};

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* Fill the registers from in, spin, yield, and write them to out: nothing else may use them. */
static void round_trip(const unsigned long *in, unsigned long *out)
{
	unsigned long spin = SPIN;

	__asm__ volatile(
		".set n, 0\n"
		".irp x, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
		"movdqu n(%1), %%xmm\\x\n"
		".set n, n + 16\n"
		".endr\n"
		"mov $1, %%eax\n" /* write(1, ".", 1) */
		"mov $1, %%edi\n"
		"lea dot(%%rip), %%rsi\n"
		"mov $1, %%edx\n"
		"syscall\n"
		"1: dec %0\n"
		"jnz 1b\n"
		"mov $24, %%eax\n" /* sched_yield() */
		"syscall\n"
		".set n, 0\n"
		".irp x, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
		"movdqu %%xmm\\x, n(%2)\n"
		".set n, n + 16\n"
		".endr\n"
		: "+r"(spin)
		: "r"(in), "r"(out)
		: "rax", "rcx", "rdx", "rsi", "rdi", "r11", "memory", "cc");
}

__asm__(".section .rodata\ndot: .ascii \".\"\n.text\n");

static void work(unsigned long seed, struct count *count)
{
	unsigned long in[2 * REGISTERS], out[2 * REGISTERS];
	int i, wrong;

	for (;;) {
		for (i = 0; i < 2 * REGISTERS; i++) {
			in[i] = (seed << 56) + (count->rounds << 8) + i;
			out[i] = 0;
		}
		round_trip(in, out);
		wrong = 0;
		for (i = 0; i < 2 * REGISTERS; i++)
			wrong |= in[i] != out[i];
		count->wrong += wrong;
		count->rounds++;
	}
}

/* Append the text, and value in decimal digits. */
static char *append(char *end, const char *text, unsigned long value)
{
	char digits[24], *digit = digits;

	while (*text)
		*end++ = *text++;
	do
		*digit++ = '0' + value % 10;
	while (value /= 10);
	while (digit > digits)
		*end++ = *--digit;
	return end;
}

void _start(void)
{
	struct count *counts = (struct count *)call(SYS_mmap, 0, 4096, PROT_READ_WRITE,
						    MAP_SHARED_ANONYMOUS, -1, 0);
	long tick[2] = { 0, 20000000 };
	unsigned long rounds, wrong;
	char line[96], *end;
	int i;

	for (i = 0; i < PROCESSES; i++)
		if (call(SYS_fork, 0, 0, 0, 0, 0, 0) == 0)
			work(i + 1, &counts[i]);
	do {
		call(SYS_nanosleep, (long)tick, 0, 0, 0, 0, 0);
		rounds = wrong = 0;
		for (i = 0; i < PROCESSES; i++) {
			rounds += counts[i].rounds;
			wrong += counts[i].wrong;
		}
	} while (rounds < ROUNDS);
	call(SYS_kill, EVERYBODY, SIGKILL, 0, 0, 0, 0);
	end = append(line, "\nLAB-REGISTERS wrong=", wrong);
	end = append(end, " of=", rounds);
	*end++ = '\n';
	call(SYS_write, 1, (long)line, end - line, 0, 0, 0);
	for (;;)
		call(SYS_pause, 0, 0, 0, 0, 0, 0);
}
