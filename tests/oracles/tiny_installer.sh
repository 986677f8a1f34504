#!/usr/bin/busybox sh
# A small installer: reads the preseed file that lies in its initrd, as debian-installer does.
/usr/bin/busybox mkdir -p /proc /sys /dev /cdrom /target /tmp /run /var/log
/usr/bin/busybox --install -s /usr/bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1

want() { grep -q "tiny=$1" /proc/cmdline; }
log() { echo "tiny-installer: $1"; echo "tiny-installer: $1" >>/var/log/syslog; }
fail() { log "$1"; echo "imagekit: installation failed: $1"; sleep 600; poweroff -f; }
answer() { sed -n "s|^[^ ]* $1 [a-z]* *||p" /tmp/answers | tail -n1; }

word() { tr ' ' '\n' </proc/cmdline | sed -n "s|^$1=||p"; }

url=$(word url)
if [ -n "$url" ]; then
	modprobe virtio_pci
	modprobe virtio_net || insmod /extra/virtio_net.ko
	modprobe af_packet 2>/dev/null
	ip link set eth0 up
	printf '#!/usr/bin/busybox sh\n[ -z "$ip" ] || { ip addr add "$ip/$mask" dev eth0; ip route add default via "$router"; }\n' >/dhcp
	chmod 755 /dhcp
	udhcpc -q -n -i eth0 -s /dhcp || fail "no address by DHCP"
	wget -q -O /preseed.cfg "$url" || fail "Failed to retrieve the preconfiguration file"
fi
sed -e ':a' -e '/\\$/N; s/ *\\\n/ /; ta' /preseed.cfg >/tmp/answers 2>/dev/null || fail "no answers"
log "answers read"
sh -c "$(answer preseed/early_command)"

want hang && { log "hanging"; sleep 100000; }
want reboot && { sync; reboot -f; }
want fail && fail "told to fail"

for m in virtio_pci virtio_blk ata_piix sd_mod sr_mod ext4 isofs; do
	modprobe $m 2>/dev/null || insmod /extra/$m.ko 2>/dev/null
done
sleep 1
if want full; then
	log "filling the disk"
	dd if=/dev/urandom of=/dev/vda bs=1M || log "dd ended"
	sync
	sleep 5
	fail "No space left on device"
fi
[ -n "$url" ] || mount -t iso9660 -o ro /dev/sr0 /cdrom || fail "no CD"

swap=$(answer partman-auto/expert_recipe | sed -n 's/.* \([0-9][0-9]*\) [0-9]* [0-9]* linux-swap .*/\1/p')
log "partitioning"
{
	echo "label: gpt"
	echo "size=1MiB, type=21686148-6449-6E6F-744E-656564454649"
	[ -z "$swap" ] || echo "size=${swap}MB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
	echo "type=L"
} | sfdisk -q /dev/vda || fail "Failed to partition the selected disk"
sleep 1
root=/dev/vda2
if [ -n "$swap" ]; then
	root=/dev/vda3
	mkswap /dev/vda2 >/dev/null
fi
/usr/sbin/mke2fs -q -t ext4 $root || fail "no file system"
mount -t ext4 $root /target || fail "no mount"
log "unpacking"
if [ -n "$url" ]; then
	mirror=http://$(answer mirror/http/hostname)$(answer mirror/http/directory)
	wget -q -O - "$mirror/rootfs.tar" | tar -x -C /target
else
	tar -x -f /cdrom/rootfs.tar -C /target
fi || fail "Failed to install the base system"
uuid=$(blkid $root | sed -n 's/.* UUID="\([^"]*\)".*/\1/p')
echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >/target/etc/fstab
if [ -n "$swap" ]; then
	echo "UUID=$(blkid /dev/vda2 | sed -n 's/.* UUID="\([^"]*\)".*/\1/p') none swap sw 0 0" >>/target/etc/fstab
fi
answer netcfg/get_hostname >/target/etc/hostname
# As netcfg does, by the name that the card has in the machine of the installation.
printf '[Match]\nName=ens3\n\n[Network]\nDHCP=yes\n' >/target/etc/systemd/network/installer.network
hash=$(answer passwd/root-password-crypted)
sed -i "s|^root:[^:]*:|root:$hash:|" /target/etc/shadow
echo "0123456789abcdef0123456789abcdef" >/target/etc/machine-id
for d in dev proc sys; do mount -o bind /$d /target/$d; done
if [ "$(answer passwd/make-user)" = true ]; then
	user=$(answer passwd/username)
	chroot /target useradd -m -s /bin/bash -c "$(answer passwd/user-fullname)" "$user" || fail "no user"
	chroot /target usermod -p "$(answer passwd/user-password-crypted)" "$user"
fi

cat >/usr/bin/in-target <<'EOT'
#!/usr/bin/busybox sh
[ "$1" = update-grub ] && exec /usr/bin/update-grub
# The tree's initrd has what Xen needs already, and making it takes most of the time.
[ "$1" = update-initramfs ] && grep -q tiny=quick /proc/cmdline && exit 0
PATH=/usr/sbin:/usr/bin:/sbin:/bin exec chroot /target "$@"
EOT
cat >/usr/bin/update-grub <<EOT
#!/usr/bin/busybox sh
release=\$(ls /target/usr/lib/modules)
cat >/target/boot/grub/grub.cfg <<EOF
set default=0
set timeout=0
serial --unit=0 --speed=115200
terminal_output console serial
menuentry 'Tiny' {
    search --no-floppy --fs-uuid --set=root $uuid
    linux /boot/vmlinuz-\$release root=UUID=$uuid ro $(answer debian-installer/add-kernel-opts)
    initrd /boot/initrd.img-\$release
}
EOF
EOT
chmod 755 /usr/bin/in-target /usr/bin/update-grub
log "installing GRUB"
grub-install --target=i386-pc --boot-directory=/target/boot /dev/vda || fail "Unable to install GRUB"
mkdir -p /target/etc/default /target/etc/initramfs-tools/conf.d
printf 'COMPRESS=gzip\nCOMPRESSLEVEL=1\n' >/target/etc/initramfs-tools/conf.d/quick
log "late command"
sh -c "$(answer preseed/late_command)" || fail "Failed to run preseeded command"
for d in dev proc sys; do umount /target/$d; done
umount /target || fail "busy"
sync
log "done"
poweroff -f
