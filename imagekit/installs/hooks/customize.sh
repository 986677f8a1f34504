#!/bin/sh
# mmdebstrap calls this with the tree when all packages are configured: undo essential.sh and
# remove what belongs to the build alone.
set -eu
root=$1
rm -f "$root/usr/sbin/update-initramfs" "$root/usr/sbin/policy-rc.d"
chroot "$root" dpkg-divert --quiet --local --rename \
	--divert /usr/sbin/update-initramfs.imagekit --remove /usr/sbin/update-initramfs
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
# apt's lists tell which archive vouched for each package.
if [ -n "${IMAGEKIT_LISTS:-}" ] && [ -d "$root/var/lib/apt/lists" ]; then
	find "$root/var/lib/apt/lists" -maxdepth 1 -type f -name '*_dists_*' \
		-exec mv -t "$IMAGEKIT_LISTS" {} +
fi
# The packages, for the next build and for bundles; mmdebstrap removes what is left.
if [ -d "${IMAGEKIT_DEBS:-}" ] && [ -d "$root/var/cache/apt/archives" ]; then
	find "$root/var/cache/apt/archives" -maxdepth 1 -type f -name '*.deb' \
		-exec mv -t "$IMAGEKIT_DEBS" {} +
fi
