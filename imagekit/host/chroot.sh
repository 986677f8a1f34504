# Read by sh from standard input, inside private mount and process namespaces.
# $1 is the tree, the rest is the command. Nothing here is mounted on the host.
set -eu
umask 022
root=$1
shift
for name in proc sys dev run; do
	if [ -L "$root/$name" ]; then
		echo "the tree has a symbolic link at /$name" >&2
		exit 125
	fi
	mkdir -p "$root/$name"
done
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
for name in null zero full random urandom tty; do
	: > "$root/dev/$name"
	mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
exec chroot "$root" "$@" </dev/null
