#!/bin/sh
# mmdebstrap calls this with the tree when all packages are configured: undo essential.sh and
# remove what belongs to the build alone.
set -eu
root=$1
rm -f "$root/usr/sbin/update-initramfs" "$root/usr/sbin/policy-rc.d"
chroot "$root" dpkg-divert --quiet --local --rename \
	--divert /usr/sbin/update-initramfs.imagekit --remove /usr/sbin/update-initramfs
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
