#!/bin/sh
# Writes the disk of an imagekit bundle to a block device, on a system that has neither imagekit
# nor Python: sh reinstall.sh BUNDLE DEVICE [--force DEVICE]
# An encrypted disk needs a key: the file that AGE_IDENTITY names, or the first line of the one that
# PASSPHRASE_FILE names, or what gpg has or asks for.
# Made for one bundle, whose packed disk it knows by its SHA-256; imagekit checked the signature
# then, or was told not to.
set -eu
digest=@DIGEST@
size=@SIZE@
image=@IMAGE@
packed=@PACKED@
signed=@SIGNED@
seal=@SEAL@

fail() {
	echo "reinstall: $*" >&2
	exit 1
}

opened() {
	case $seal in
	none) cat "$1" ;;
	age) age --decrypt --identity "${AGE_IDENTITY:?names no file}" "$1" ;;
	gpg)
		if [ -n "${PASSPHRASE_FILE:-}" ]; then
			set -- --batch --pinentry-mode loopback --passphrase-file "$PASSPHRASE_FILE" "$1"
		fi
		gpg --quiet --decrypt "$@"
		;;
	esac
}

[ $# -ge 2 ] || fail "usage: reinstall.sh BUNDLE DEVICE [--force DEVICE]"
bundle=$1
device=$2
force=
if [ "${3:-}" = --force ]; then
	force=${4:-}
	[ "$force" = "$device" ] || fail "--force names ${force:-nothing}, not $device"
fi
[ -f "$bundle" ] || fail "there is no $bundle"
[ -b "$device" ] || fail "$device is no block device"
bundle=$(cd "$(dirname "$bundle")" && pwd)/$(basename "$bundle")
real=$(readlink -f "$device")
grep -q "^$real " /proc/mounts /proc/swaps && fail "$device is in use"
room=$(blockdev --getsize64 "$device")
[ "$room" -ge "$size" ] || fail "$device has $room bytes, and the disk needs $size"
if [ -z "$force" ] && blkid -p "$device" >/dev/null 2>&1; then
	fail "$device holds data; say --force $device to overwrite it"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
[ "$signed" = yes ] || echo "reinstall: nobody vouches for this bundle (--insecure-unsigned)" >&2
echo "checking the bundle"
(cd "$work" && tar -xf "$bundle" "$image" &&
	echo "$packed  $image" | sha256sum -c - >/dev/null) ||
	fail "the bundle is damaged, or not the one that this script was made for"
# Before the device loses what it holds.
[ "$(opened "$work/$image" | head -c 2 | od -A n -t x1)" = " 1f 8b" ] ||
	fail "$image cannot be opened"
echo "writing $device"
opened "$work/$image" | gzip -dc | dd of="$device" bs=1M conv=fsync,notrunc 2>/dev/null
echo "reading it back"
written=$(head -c "$size" "$device" | sha256sum | cut -d ' ' -f 1)
[ "$written" = "$digest" ] || fail "$device does not give back what was written"
echo "done: $device holds the original disk"
