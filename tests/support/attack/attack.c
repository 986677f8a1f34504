/* A program that tries to get out of where it runs, and says of each attempt how it went:
 *
 *     ATTEMPT way name: failed detail
 *     ATTEMPT way name: SUCCEEDED detail
 *
 * attack WAY           every attempt but the bombs
 * attack WAY NAME      this one, in this process; exit 0 if it succeeds, else 1
 * attack list          the names of what "attack WAY" tries
 *
 * As a maintainer script it attacks too, and WAY is its name: "postinst-configure". Each
 * attempt has a process of its own and 10 s, so that one that is killed fails alone. Nothing is
 * done that would harm the host of a test that fails: what is written is what was there, or goes
 * to what the test put there. */
#include "attack.h"
#include <poll.h>
#include <signal.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define SECONDS 10

char detail[400];
static const struct attempt *const groups[] = {doors, holes, reaches};

int failed(const char *format, ...)
{
	va_list values;
	va_start(values, format);
	vsnprintf(detail, sizeof detail, format, values);
	va_end(values);
	return 0;
}

int succeeded(const char *format, ...)
{
	va_list values;
	va_start(values, format);
	vsnprintf(detail, sizeof detail, format, values);
	va_end(values);
	return 1;
}

int by_result(long result)
{
	return result == -1 ? failed("%s", strerror(errno)) : succeeded("returned %ld", result);
}

int by_permission(long result)
{
	if (result == -1 && (errno == EPERM || errno == EACCES || errno == ENOSYS))
		return failed("%s", strerror(errno));
	return succeeded("%s", result == -1 ? strerror(errno) : "allowed");
}

int holds(int directory, const char *path, const char *token)
{
	static char buffer[(1 << 20) + 1];
	size_t have = 0;
	int fd = openat(directory, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return 0;
	while (have < sizeof buffer - 1) {
		ssize_t got = read(fd, buffer + have, sizeof buffer - 1 - have);
		if (got <= 0)
			break;
		have += got;
	}
	close(fd);
	return memmem(buffer, have, token, strlen(token)) != NULL;
}

int any_opens(const char *const *paths, int flags)
{
	const char *why = "none is there";
	for (; *paths; paths++) {
		int fd = open(*paths, flags | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			struct stat status;
			int null = fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) &&
				   status.st_rdev == makedev(1, 3);
			close(fd);
			if (!null)
				return succeeded("%s opens", *paths);
			errno = EACCES;
		}
		if (errno != ENOENT)
			why = strerror(errno);
	}
	return failed("%s", why);
}

static void report(const char *way, const char *name, int success, const char *text)
{
	char line[600];
	int size = snprintf(line, sizeof line, "ATTEMPT %s %s: %s %s\n", way, name,
			    success ? "SUCCEEDED" : "failed", text);
	if (write(1, line, size) != size)
		_exit(3);
	/* mmdebstrap shows nothing of what maintainer scripts print. */
	int kept = open("/var/lib/attack.log", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (kept >= 0)
		write(kept, line, size);
	close(kept);
}

static void in_child(const char *way, const struct attempt *attempt)
{
	struct { int success; char text[sizeof detail]; } result = {0, "died"};
	int ends[2], status = 0;
	if (pipe2(ends, O_CLOEXEC) != 0) {
		report(way, attempt->name, 0, "no pipe");
		return;
	}
	pid_t child = fork();
	if (child == 0) {
		close(ends[0]);
		result.success = attempt->run();
		snprintf(result.text, sizeof result.text, "%s", detail);
		_exit(write(ends[1], &result, sizeof result) == sizeof result ? 0 : 1);
	}
	close(ends[1]);
	if (child < 0) {
		close(ends[0]);
		report(way, attempt->name, 0, "no process");
		return;
	}
	struct pollfd waited = {.fd = ends[0], .events = POLLIN};
	int ready = poll(&waited, 1, SECONDS * 1000);
	int whole = ready > 0 && read(ends[0], &result, sizeof result) == sizeof result;
	if (!whole)
		kill(child, SIGKILL);
	close(ends[0]);
	waitpid(child, &status, 0);
	if (!whole)
		snprintf(result.text, sizeof result.text, ready == 0 ? "no answer in 10 s" : "signal %d",
			 WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	report(way, attempt->name, whole && result.success, result.text);
}

static int one(const char *way, const char *name)
{
	const struct attempt *const all[] = {doors, holes, reaches, bombs};
	for (size_t group = 0; group < sizeof all / sizeof *all; group++)
		for (const struct attempt *a = all[group]; a->name; a++)
			if (strcmp(a->name, name) == 0) {
				int success = a->run();
				report(way, name, success, detail);
				return success ? 0 : 1;
			}
	fprintf(stderr, "there is no attempt %s\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "unnamed";
	const char *self = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	const char *dot = strrchr(self, '.');
	static char named[64];
	signal(SIGPIPE, SIG_IGN);
	/* dpkg runs tmp.ci/preinst install and info/PACKAGE.postinst configure. */
	const char *script = dot && strstr(dot, "inst") ? dot + 1 : self;
	if (strcmp(script, "preinst") == 0 || strcmp(script, "postinst") == 0) {
		snprintf(named, sizeof named, "%s-%s", script, way);
		way = named, argc = 2;
	}
	if (argc > 2)
		return one(way, argv[2]);
	for (size_t group = 0; group < sizeof groups / sizeof *groups; group++)
		for (const struct attempt *a = groups[group]; a->name; a++)
			if (strcmp(way, "list") == 0)
				puts(a->name);
			else
				in_child(way, a);
	return 0;
}
