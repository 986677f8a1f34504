/* Attempts to use up what the host has: memory, processes, disk, time, the log. Each ends by itself
 * at an amount that a host bears, so that a test without a bound fails and harms nothing. */
#include "attack.h"
#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#define MIB (1L << 20)

static int touch(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 0;
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	return 1;
}

/* 1.25 GiB in one process. */
static int memory_bomb(void)
{
	for (int i = 0; i < 20; i++)
		if (!touch(64 * MIB))
			return failed("after %d MiB: %s", i * 64, strerror(errno));
	return succeeded("1280 MiB are mine");
}

/* The same in ten processes, none of which has much. */
static int shared_bomb(void)
{
	int ends[2], report[2], have = 0;
	char byte;
	if (pipe(ends) != 0 || pipe(report) != 0)
		return failed("%s", strerror(errno));
	for (int i = 0; i < 10; i++)
		if (fork() == 0) {
			close(ends[1]);
			close(report[0]);
			if (touch(128 * MIB))
				write(report[1], "", 1);
			close(report[1]);
			_exit(read(ends[0], &byte, 1));
		}
	close(report[1]);
	while (read(report[0], &byte, 1) == 1)
		have++;
	close(ends[1]);
	while (wait(NULL) > 0)
		;
	return have == 10 ? succeeded("1280 MiB are ours") : failed("%d of ten got memory", have);
}

/* 1.25 GiB in files that are in memory, in every such place there is. */
static int memory_files(void)
{
	static const char *const places[] = {"/dev/shm", "/run", "/dev", "/tmp", "/sys/fs/cgroup", NULL};
	static char piece[MIB];
	long total = 0;
	int error = 0;
	memset(piece, 1, sizeof piece);
	for (const char *const *place = places; *place; place++) {
		char path[64];
		snprintf(path, sizeof path, "%s/attack-memory", *place);
		int fd = strcmp(*place, "/tmp") == 0 ? (int)syscall(SYS_memfd_create, "attack", 0)
						     : open(path, O_CREAT | O_WRONLY, 0600);
		while (fd >= 0 && total < 1280 && write(fd, piece, MIB) == MIB)
			total++;
		if (fd >= 0)
			error = errno;
	}
	for (const char *const *place = places; *place; place++) {
		char path[64];
		snprintf(path, sizeof path, "%s/attack-memory", *place);
		unlink(path);
	}
	return total >= 1280 ? succeeded("%ld MiB", total) : failed("after %ld MiB: %s", total, strerror(error));
}

/* 1500 processes that wait; a second user could not log in any more. */
static int fork_bomb(void)
{
	int ends[2], count = 0, error = 0;
	if (pipe(ends) != 0)
		return failed("%s", strerror(errno));
	while (count < 1500) {
		pid_t child = fork();
		if (child == 0) {
			char byte;
			close(ends[1]);
			_exit(read(ends[0], &byte, 1));
		}
		if (child < 0) {
			error = errno;
			break;
		}
		count++;
	}
	close(ends[1]);
	while (wait(NULL) > 0)
		;
	return count == 1500 ? succeeded("%d processes", count)
			     : failed("after %d: %s", count, strerror(error));
}

/* 3 GiB in a file, all of it allocated. */
static int big_file(void)
{
	int fd = open("/var/attack-file", O_CREAT | O_WRONLY | O_TRUNC, 0600), error = 0;
	long have = 0;
	for (; fd >= 0 && have < 3072; have += 64)
		if ((error = posix_fallocate(fd, have * MIB, 64 * MIB)) != 0)
			break;
	return have == 3072 ? succeeded("3 GiB") : failed("after %ld MiB: %s", have, strerror(error));
}

/* The same in many files, none of which is large. */
static int many_files(void)
{
	long have = 0;
	for (; have < 3072; have += 32) {
		char path[64];
		snprintf(path, sizeof path, "/var/attack-file-%ld", have);
		int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
		if (fd < 0 || posix_fallocate(fd, 0, 32 * MIB) != 0)
			break;
		close(fd);
	}
	return have == 3072 ? succeeded("3 GiB in files")
			    : failed("after %ld MiB: no space", have);
}

/* A process that nobody waits for, in a session of its own, deaf to signals. */
static int daemon_left(void)
{
	if (fork() == 0) {
		setsid();
		if (fork() == 0) {
			for (int number = 1; number < 64; number++)
				signal(number, SIG_IGN);
			for (int fd = 0; fd < 64; fd++)
				close(fd);
			execl("/proc/self/exe", DAEMON_NAME, "x", "wait", NULL);
		}
		_exit(0);
	}
	wait(NULL);
	return succeeded("left behind");
}

/* A program that makes whoever starts it root. */
static int setuid_left(void)
{
	static char piece[1 << 16];
	int from = open("/proc/self/exe", O_RDONLY), to = open("/usr/bin/left", O_CREAT | O_WRONLY, 0700);
	for (ssize_t size; (size = read(from, piece, sizeof piece)) > 0;)
		write(to, piece, size);
	return by_result(fchown(to, 0, 0) == 0 ? fchmod(to, 06755) : -1);
}

static int wait_on(void)
{
	for (int number = 1; number < 64; number++)
		signal(number, SIG_IGN);
	for (int i = 0; i < 600; i++)
		sleep(1);
	return succeeded("ten minutes");
}

/* In a child, as a shell runs programs; ends as the shell would. */
static int spin(void)
{
	time_t end = time(NULL) + 600;
	int status = 0;
	pid_t child = fork();
	while (child == 0)
		if (time(NULL) > end)
			_exit(0);
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		exit(128 + WTERMSIG(status));
	return succeeded("ten minutes");
}

static int much_output(int newline)
{
	static char text[64 * 1024];
	memset(text, 'x', sizeof text);
	if (newline)
		for (size_t at = 79; at < sizeof text; at += 80)
			text[at] = '\n';
	for (long written = 0; written < 512 * MIB;) {
		ssize_t size = write(1, text, sizeof text);
		if (size <= 0)
			return failed("after %ld MiB", written / MIB);
		written += size;
	}
	return succeeded("512 MiB of output");
}

static int output_of_lines(void) { return much_output(1); }
static int output_of_one_line(void) { return much_output(0); }

const struct attempt bombs[] = {
	{"memory-bomb", memory_bomb}, {"shared-bomb", shared_bomb}, {"memory-files", memory_files},
	{"fork-bomb", fork_bomb}, {"big-file", big_file}, {"many-files", many_files},
	{"daemon", daemon_left}, {"setuid", setuid_left}, {"wait", wait_on}, {"spin", spin}, {"output", output_of_lines},
	{"output-line", output_of_one_line}, {NULL, NULL},
};
