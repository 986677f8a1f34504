#!/bin/sh
# mmdebstrap calls this with the tree when dpkg works in it and nothing else is installed yet.
# The kernel's postinst must not make an initrd (imagekit makes one, once, at the end), and no
# service may start.
set -eu
root=$1
mkdir -p "$root/usr/sbin"
chroot "$root" dpkg-divert --quiet --local --rename \
	--divert /usr/sbin/update-initramfs.imagekit --add /usr/sbin/update-initramfs
printf '#!/bin/sh\nexit 0\n' > "$root/usr/sbin/update-initramfs"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/update-initramfs" "$root/usr/sbin/policy-rc.d"
