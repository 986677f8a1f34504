#!/bin/sh
# Stands for mknod where the kernel lets nobody make device nodes: mounts the sandbox's own device.
set -eu
choose() {
	while [ $# -gt 0 ]; do
		case $1 in
			-m | --mode) shift 2 ;;
			-*) shift ;;
			*) break ;;
		esac
	done
	path=${1-}
	# Numbers of Linux's Documentation/admin-guide/devices.txt.
	case "${2-} ${3-} ${4-}" in
		"c 1 3") device=null ;;
		"c 1 5") device=zero ;;
		"c 1 7") device=full ;;
		"c 1 8") device=random ;;
		"c 1 9") device=urandom ;;
		"c 5 0") device=tty ;;
		*) device= ;;
	esac
}
choose "$@"
[ -n "$device" ] || exec /usr/bin/mknod "$@"
if [ -e "$path" ] || [ -L "$path" ]; then
	echo "mknod: $path: File exists" >&2
	exit 1
fi
: > "$path"
exec mount --bind "/dev/$device" "$path"
