/* Attempts on the kernel: devices, mounts, namespaces, settings. */
#include "attack.h"
#include <dirent.h>
#include <linux/mount.h>
#include <linux/reboot.h>
#include <sched.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/timex.h>

static const char *const places[] = {"/", "/tmp", "/dev", "/dev/shm", "/run", "/var/tmp", NULL};

static int make_node(mode_t kind, dev_t device)
{
	const char *why = "nowhere to make one";
	for (const char *const *place = places; *place; place++) {
		char path[64];
		snprintf(path, sizeof path, "%s/attack-node", *place);
		unlink(path);
		if (mknod(path, kind | 0666, device) == 0) {
			int fd = open(path, O_RDWR | O_CLOEXEC);
			char found[64] = "";
			if (fd >= 0 && S_ISBLK(kind) && pread(fd, found, sizeof found - 1, 0) > 0 &&
			    strstr(found, DISK_TOKEN)) {
				pwrite(fd, "attacked", 8, 0);
				fsync(fd);
			}
			unlink(path);
			return succeeded("%s %s", path, fd >= 0 ? "opened" : "made");
		}
		why = strerror(errno);
	}
	return failed("%s", why);
}

static int mknod_disk(void) { return make_node(S_IFBLK, makedev(DISK_MAJOR, DISK_MINOR)); }
static int mknod_memory(void) { return make_node(S_IFCHR, makedev(1, 1)); }
static int mknod_kmsg(void) { return make_node(S_IFCHR, makedev(1, 11)); }
static int mknod_null(void) { return make_node(S_IFCHR, makedev(1, 3)); }

static int find_node(void)
{
	static const char *const wanted[] = {
		"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/fuse", "/dev/kvm",
		"/dev/loop-control", "/dev/net/tun", "/dev/vhost-net", "/dev/vsock",
		"/dev/mapper/control", "/dev/btrfs-control", "/dev/autofs", "/dev/uinput",
		"/dev/userfaultfd", "/dev/cpu/0/msr", "/dev/console", "/dev/xen/privcmd", NULL};
	DIR *directory = opendir("/dev");
	for (struct dirent *entry; directory && (entry = readdir(directory));)
		if (entry->d_type == DT_BLK)
			return succeeded("/dev/%s is a block device", entry->d_name);
	return any_opens(wanted, O_RDONLY);
}

static int do_mount(const char *source, const char *kind, unsigned long flags)
{
	mkdir("/tmp/attack-mount", 0755);
	int success = by_result(mount(source, "/tmp/attack-mount", kind, flags, NULL));
	if (success)
		umount2("/tmp/attack-mount", MNT_DETACH);
	return success;
}

static int mount_tmpfs(void) { return do_mount("none", "tmpfs", 0); }
static int mount_proc(void) { return do_mount("proc", "proc", 0); }
static int mount_sysfs(void) { return do_mount("sys", "sysfs", 0); }
static int mount_devtmpfs(void) { return do_mount("dev", "devtmpfs", 0); }
static int mount_debugfs(void) { return do_mount("debug", "debugfs", 0); }
static int mount_cgroup(void) { return do_mount("none", "cgroup2", 0); }
static int mount_bind(void) { return do_mount("/etc", NULL, MS_BIND); }

static int remount(void)
{
	static const char *const targets[] = {"/proc/sys", "/sys", "/proc", "/dev", "/", NULL};
	for (const char *const *t = targets; *t; t++)
		if (mount(NULL, *t, NULL, MS_REMOUNT | MS_BIND, NULL) == 0)
			return succeeded("%s", *t);
	return failed("%s", strerror(errno));
}

static int unmount(void)
{
	static const char *const targets[] = {"/proc/sys", "/proc/kcore", "/proc/keys", "/sys", "/dev",
					      "/proc", "/run", "/", NULL};
	for (const char *const *t = targets; *t; t++)
		if (umount2(*t, MNT_DETACH) == 0)
			return succeeded("%s", *t);
	return failed("%s", strerror(errno));
}

static int mount_by_descriptor(void)
{
	int context = syscall(SYS_fsopen, "tmpfs", 0);
	if (context < 0)
		return failed("%s", strerror(errno));
	return succeeded("fsopen returned %d", context);
}

static int open_tree_clone(void)
{
	/* OPEN_TREE_CLONE */
	return by_result(syscall(SYS_open_tree, AT_FDCWD, "/", 1));
}

static int mount_setattr_root(void)
{
	struct { uint64_t set, clear, propagation, userns; } attributes = {0, 1, 0, 0};
	return by_result(syscall(442, AT_FDCWD, "/proc/sys", 0, &attributes, sizeof attributes));
}

static int new_root(void) { return by_result(syscall(SYS_pivot_root, ".", ".")); }

static int unshare_user_mount(void)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
		return failed("%s", strerror(errno));
	mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
	mkdir("/tmp/attack-mount", 0755);
	int done = mount("none", "/tmp/attack-mount", "tmpfs", 0, NULL);
	return succeeded("a user namespace, and mount %s", done == 0 ? "works" : strerror(errno));
}

static int clone_user(void)
{
	long child = syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0);
	if (child == 0)
		_exit(0);
	return by_result(child);
}

static int clone3_user(void)
{
	struct { uint64_t flags, pidfd, child, parent, signal, stack, size, tls; } arguments = {
		.flags = CLONE_NEWUSER, .signal = 17};
	long child = syscall(SYS_clone3, &arguments, sizeof arguments);
	if (child == 0)
		_exit(0);
	return by_result(child);
}

static int unshare_mount(void) { return by_result(unshare(CLONE_NEWNS)); }
static int unshare_net(void) { return by_result(unshare(CLONE_NEWNET)); }

static int same_namespace(void)
{
	static const char *const host[] = {NS_USER, NS_MNT, NS_PID, NS_IPC, NS_UTS, NS_CGROUP, NS_NET,
					   NULL};
	static char found[200];
	for (const char *const *wanted = host; *wanted; wanted++) {
		char path[64], link[64] = "";
		snprintf(path, sizeof path, "/proc/self/ns/%.*s", (int)strcspn(*wanted, ":"), *wanted);
		if (readlink(path, link, sizeof link - 1) > 0 && strcmp(link, *wanted) == 0) {
			strcat(found, " ");
			strncat(found, *wanted, strcspn(*wanted, ":"));
		}
	}
	return *found ? succeeded("the host's own:%s", found) : failed("none of the host's");
}

static int enter_namespace(void)
{
	static const char *const names[] = {"user", "mnt", "pid", "ipc", "uts", "cgroup", "net", NULL};
	for (const char *const *name = names; *name; name++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/1/ns/%s", *name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && setns(fd, 0) == 0)
			return succeeded("%s", path);
	}
	return failed("%s", strerror(errno));
}

static int sys_firmware_below(const char *path, int depth)
{
	DIR *directory = opendir(path);
	for (struct dirent *entry; directory && (entry = readdir(directory));) {
		char below[400];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_DIR && depth > 0 && sys_firmware_below(below, depth - 1))
			return 1;
		int fd = entry->d_type == DT_REG ? open(below, O_RDONLY | O_CLOEXEC) : -1;
		if (fd >= 0)
			return succeeded("%.300s opens", below);
	}
	return failed("nothing there opens");
}

static int sys_firmware(void) { return sys_firmware_below("/sys/firmware", 4); }

static int sys_write(void)
{
	static const char *const files[] = {
		"/sys/power/state", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run",
		"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/block/loop0/queue/nomerges",
		"/sys/module/loop/parameters/max_loop", "/sys/fs/cgroup/cgroup.procs",
		"/sys/fs/cgroup/memory/release_agent", "/sys/class/net/lo/mtu",
		"/sys/kernel/profiling", "/sys/kernel/debug", NULL};
	return any_opens(files, O_WRONLY);
}

static int kernel_log(void)
{
	static const char *const files[] = {"/dev/kmsg", "/proc/kmsg", NULL};
	static char text[4096];
	if (any_opens(files, O_RDONLY))
		return 1;
	return by_result(klogctl(3, text, sizeof text));
}

static int kernel_log_write(void)
{
	static const char *const files[] = {"/dev/kmsg", NULL};
	return any_opens(files, O_WRONLY);
}

static int kernel_symbols(void)
{
	static const char *const files[] = {"/proc/kcore", "/proc/kpagecount", "/proc/keys",
					    "/proc/timer_list", "/proc/sched_debug", NULL};
	for (const char *const *f = files; *f; f++) {
		char byte;
		int fd = open(*f, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, &byte, 1) == 1)
			return succeeded("%s", *f);
	}
	return failed("nothing to read");
}

static int module_load(void)
{
	static const char junk[64] = "no module";
	return by_permission(syscall(SYS_init_module, junk, sizeof junk, ""));
}

static int module_load_file(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	return by_permission(syscall(SYS_finit_module, fd, "", 0));
}

static int module_remove(void)
{
	return by_permission(syscall(SYS_delete_module, "imagekit_no_such", O_NONBLOCK));
}

static int sysctl_write(void)
{
	static const char *const files[] = {
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
		"/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sys/fs/file-max",
		"/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/kernel/printk", "/proc/sys/user/max_user_namespaces",
		"/proc/irq/default_smp_affinity",
		"/proc/bus/pci/00/00.0", NULL};
	char text[256];
	int fd = open(*files, O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text);
	close(fd);
	fd = open(*files, O_WRONLY);
	if (fd >= 0 && size > 0 && write(fd, text, size) == size)
		return succeeded("%s is written", *files);
	return any_opens(files, O_WRONLY);
}

static int host_name(void)
{
	char name[65] = "";
	gethostname(name, sizeof name);
	return by_result(sethostname(name, strlen(name)));
}

static int clock_tick(void)
{
	struct timex now = {.modes = 0};
	adjtimex(&now);
	now.modes = ADJ_TICK;
	return by_result(adjtimex(&now));
}

static int key_of_reboot(void)
{
	/* What control-alt-delete does; in a PID namespace the kernel refuses it otherwise. */
	return by_result(syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
				 LINUX_REBOOT_CMD_CAD_OFF, NULL));
}

const struct attempt doors[] = {
	{"mknod-disk", mknod_disk}, {"mknod-memory", mknod_memory}, {"mknod-kmsg", mknod_kmsg},
	{"mknod-null", mknod_null}, {"find-node", find_node}, {"mount-tmpfs", mount_tmpfs},
	{"mount-proc", mount_proc}, {"mount-sysfs", mount_sysfs}, {"mount-devtmpfs", mount_devtmpfs},
	{"mount-debugfs", mount_debugfs}, {"mount-cgroup", mount_cgroup}, {"mount-bind", mount_bind},
	{"remount", remount}, {"unmount", unmount}, {"mount-by-descriptor", mount_by_descriptor},
	{"open-tree", open_tree_clone}, {"mount-setattr", mount_setattr_root}, {"pivot-root", new_root},
	{"unshare-user-mount", unshare_user_mount}, {"clone-user", clone_user},
	{"clone3-user", clone3_user}, {"unshare-mount", unshare_mount}, {"unshare-net", unshare_net},
	{"same-namespace", same_namespace}, {"enter-namespace", enter_namespace},
	{"sys-firmware", sys_firmware}, {"sys-write", sys_write}, {"kernel-log", kernel_log},
	{"kernel-log-write", kernel_log_write}, {"kernel-symbols", kernel_symbols},
	{"module-load", module_load}, {"module-load-file", module_load_file},
	{"module-remove", module_remove}, {"sysctl-write", sysctl_write}, {"host-name", host_name},
	{"clock", clock_tick}, {"reboot", key_of_reboot}, {NULL, NULL},
};
