/* Attempts on parts of the kernel that holes were found in, and on what only the privileged may. */
#include "attack.h"
#include <linux/bpf.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

static int keyring(void)
{
	return by_permission(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1));
}

static int add_key(void)
{
	return by_permission(
		syscall(SYS_add_key, "user", "attack", "x", 1, KEY_SPEC_PROCESS_KEYRING));
}

static int request_key(void)
{
	/* Without a string to call out with: the host is not to start a program for it. */
	return by_permission(syscall(SYS_request_key, "user", "attack", NULL, 0));
}

static int bpf_map(void)
{
	union bpf_attr attribute = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4,
				    .max_entries = 1};
	return by_permission(syscall(SYS_bpf, BPF_MAP_CREATE, &attribute, sizeof attribute));
}

static int bpf_program(void)
{
	/* r0 = 0; exit */
	static const struct bpf_insn code[] = {{.code = 0xb7}, {.code = 0x95}};
	union bpf_attr attribute = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2,
				    .insns = (uintptr_t)code, .license = (uintptr_t) "GPL"};
	return by_permission(syscall(SYS_bpf, BPF_PROG_LOAD, &attribute, sizeof attribute));
}

static int io_uring(void)
{
	static char parameters[256];
	return by_permission(syscall(SYS_io_uring_setup, 1, parameters));
}

static int perf(void)
{
	struct perf_event_attr attribute = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attribute,
					    .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1};
	return by_permission(syscall(SYS_perf_event_open, &attribute, 0, -1, -1, 0));
}

static int user_faults(void) { return by_permission(syscall(SYS_userfaultfd, O_CLOEXEC)); }
static int fanotify(void) { return by_permission(syscall(SYS_fanotify_init, 0, O_RDONLY)); }
/* With a flag that there is not, so that it does nothing where it is allowed. */
static int kexec(void) { return by_permission(syscall(SYS_kexec_load, 0, 0, NULL, 0x8000)); }
static int swap(void) { return by_permission(syscall(SYS_swapoff, "/imagekit-no-such")); }
static int accounting(void) { return by_permission(syscall(SYS_acct, "/imagekit-no-such")); }
static int io_ports(void) { return by_permission(syscall(SYS_iopl, 3)); }

static int by_handle(void)
{
	/* The handle of a file of the host, as name_to_handle_at(2) gave it; tried on every mount
	 * point that may lie on the same file system. */
	static const char *const mounts[] = {"/", "/tmp", "/etc", "/usr", "/dev/shm", "/run", "/proc",
					     "/tmp/in_target.d", "/imagekit", NULL};
	static struct { unsigned int size; int type; unsigned char bytes[128]; } handle = {
		HANDLE_SIZE, HANDLE_TYPE, HANDLE_BYTES};
	int error = ENOENT;
	for (const char *const *mount = mounts; *mount; mount++) {
		int base = open(*mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		int fd = base < 0 ? -1 : syscall(SYS_open_by_handle_at, base, &handle, O_RDONLY);
		if (fd >= 0)
			return succeeded("a file of the host by %s", *mount);
		if (base >= 0)
			error = errno;
		close(base);
	}
	/* ESTALE: allowed to ask, and this file is on another file system. */
	return error == ESTALE ? succeeded("%s", strerror(error)) : failed("%s", strerror(error));
}

static int realtime(void)
{
	struct sched_param parameter = {.sched_priority = 1};
	return by_result(sched_setscheduler(0, SCHED_FIFO, &parameter));
}

static int priority(void)
{
	return by_result(setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) - 1));
}

static int raised_limit(void)
{
	static const int limits[] = {RLIMIT_AS, RLIMIT_NPROC, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA,
				     RLIMIT_MEMLOCK, RLIMIT_NOFILE};
	for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
		struct rlimit now;
		getrlimit(limits[i], &now);
		if (now.rlim_max == RLIM_INFINITY)
			continue;
		now.rlim_cur = now.rlim_max = now.rlim_max + 1;
		if (setrlimit(limits[i], &now) == 0)
			return succeeded("limit %d", limits[i]);
	}
	return failed("%s", strerror(errno));
}

static int killed_last(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	return by_result(fd < 0 ? -1 : write(fd, "-1000", 5));
}

static int new_privileges(void)
{
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? failed("no_new_privs is set")
							    : succeeded("no_new_privs is not set");
}

static int system_calls_unlisted(void)
{
	int mode = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
	return mode == 2 ? failed("a seccomp list is there") : succeeded("seccomp mode %d", mode);
}

static int capabilities(void)
{
	/* linux/capability.h: what reaches beyond files and processes of the tree itself. */
	static const struct { int number; const char *name; } strong[] = {
		{2, "dac_read_search"}, {9, "linux_immutable"}, {12, "net_admin"}, {13, "net_raw"},
		{14, "ipc_lock"}, {16, "sys_module"}, {17, "sys_rawio"}, {19, "sys_ptrace"},
		{20, "sys_pacct"}, {21, "sys_admin"}, {22, "sys_boot"}, {23, "sys_nice"},
		{24, "sys_resource"}, {25, "sys_time"}, {26, "sys_tty_config"}, {27, "mknod"},
		{30, "audit_control"}, {32, "mac_override"}, {33, "mac_admin"}, {34, "syslog"},
		{35, "wake_alarm"}, {36, "block_suspend"}, {37, "audit_read"}, {38, "perfmon"},
		{39, "bpf"}, {40, "checkpoint_restore"}};
	static char found[300];
	for (size_t i = 0; i < sizeof strong / sizeof *strong; i++)
		if (prctl(PR_CAPBSET_READ, strong[i].number, 0, 0, 0) == 1) {
			strcat(found, " ");
			strcat(found, strong[i].name);
		}
	return *found ? succeeded("can have%s", found) : failed("none that leads out");
}

static int family(int number, int type)
{
	return by_result(socket(number, type | SOCK_CLOEXEC, 0));
}

static int packets(void) { return family(AF_PACKET, SOCK_RAW); }
static int raw_packets(void) { return by_result(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 1)); }
static int hypervisor(void) { return family(AF_VSOCK, SOCK_STREAM); }
static int crypto(void) { return family(AF_ALG, SOCK_SEQPACKET); }

static int netfilter(void)
{
	/* NETLINK_NETFILTER: nf_tables, where most ways from a user namespace to root were. */
	return by_result(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 12));
}

static int audit(void) { return by_result(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 9)); }

/* Another table of system calls, which a list of numbers of x86-64 does not see. */
#ifdef __x86_64__
static long by_32_bits(long number, const void *a, const void *b, const void *c, long d, long e)
{
	long result;
	register long edi __asm__("edi") = e;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "r"(edi)
			 : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static int mount_32(void)
{
	static const char none[] = "none", target[] = "/tmp", kind[] = "tmpfs";
	long result = (int)by_32_bits(21, none, target, kind, 0, 0);
	if (result == 0)
		umount2(target, MNT_DETACH);
	return result == 0 ? succeeded("mount") : failed("%s", strerror(-result));
}

static int unshare_32(void)
{
	long result = (int)by_32_bits(310, (void *)(long)CLONE_NEWUSER, 0, 0, 0, 0);
	return result == 0 ? succeeded("unshare") : failed("%s", strerror(-result));
}

static int keyring_32(void)
{
	long result = (int)by_32_bits(288, 0, (void *)-3L, (void *)1L, 0, 0);
	return result > 0 ? succeeded("keyctl") : failed("%s", strerror(-result));
}

/* socketcall(2), which has the family in memory. */
static int vsock_32(void)
{
	static uint32_t arguments[3] = {AF_VSOCK, SOCK_STREAM, 0};
	long result = (int)by_32_bits(102, (void *)1L, arguments, 0, 0, 0);
	return result >= 0 ? succeeded("a socket of vsock") : failed("%s", strerror(-result));
}

static int unshare_x32(void) { return by_result(syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER)); }
#endif

const struct attempt holes[] = {
	{"keyring", keyring}, {"add-key", add_key}, {"request-key", request_key}, {"bpf-map", bpf_map},
	{"bpf-program", bpf_program}, {"io-uring", io_uring}, {"perf", perf},
	{"userfaultfd", user_faults}, {"fanotify", fanotify}, {"kexec", kexec}, {"swap", swap},
	{"accounting", accounting}, {"io-ports", io_ports},
	{"open-by-handle", by_handle}, {"realtime", realtime}, {"priority", priority},
	{"raise-limit", raised_limit}, {"killed-last", killed_last}, {"new-privileges", new_privileges},
	{"unlisted-calls", system_calls_unlisted}, {"capabilities", capabilities},
	{"packet-socket", packets}, {"raw-socket", raw_packets}, {"vsock", hypervisor},
	{"crypto-socket", crypto}, {"netfilter", netfilter}, {"audit", audit},
#ifdef __x86_64__
	{"mount-32", mount_32}, {"unshare-32", unshare_32}, {"keyring-32", keyring_32},
	{"vsock-32", vsock_32}, {"unshare-x32", unshare_x32},
#endif
	{NULL, NULL},
};
