#!/bin/sh
# Process 1 of the lab's dom0: what xl needs, one bridge with its services, then the agent.
# Steps as in Debian's /etc/init.d/xen (package xen-utils-common), without an init system.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm
# udev would make these; Xen's hotplug scripts wait for ever without them.
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t devpts -o ptmxmode=0666,mode=620 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t xenfs xenfs /proc/xen
echo 1 >/proc/sys/vm/overcommit_memory

failed() {
	echo "LAB-FAILED: $1"
	busybox poweroff -f
}
grep -q control_d /proc/xen/capabilities || failed "this is not dom0"

xen=$(echo /usr/lib/xen-4.*)
mkdir -p /run/xen /run/xenstored /var/log/xen/console /var/lib/xen /srv/lab
hostname lab
ip link set lo up
ip link add xenbr0 type bridge forward_delay 0 stp_state 0
ip address add 198.18.0.1/24 dev xenbr0
ip link set xenbr0 up

XENSTORED_ROOTDIR=/run/xenstored "$xen/bin/xenstored" --pid-file /run/xenstored.pid
"$xen/bin/xen-init-dom0" >/dev/null || failed "xenstored does not answer"
"$xen/bin/xenconsoled" --pid-file /run/xenconsoled.pid
# Debian 12 has a QEMU of its own for Xen; in Debian 11 the usual one can do it.
qemu=/usr/libexec/xen-qemu-system-i386
test -x "$qemu" || qemu=/usr/bin/qemu-system-i386
"$qemu" -xen-domid 0 -xen-attach -name dom0 -nographic -M xenpv \
	-daemonize -D /var/log/xen/qemu-dom0.log -monitor none -serial none -parallel none -pidfile /run/qemu-dom0.pid

# Guests get addresses and quick answers, and no way out: there is no other interface.
dnsmasq --conf-file=/dev/null --interface=xenbr0 --bind-dynamic --except-interface=lo \
	--dhcp-range=198.18.0.100,198.18.0.250,1h --dhcp-leasefile=/run/dhcp.leases \
	--dhcp-authoritative --no-ping --no-resolv --no-hosts --local=/#/ \
	--host-record=lab.test,198.18.0.1 --enable-tftp --tftp-root=/srv/lab \
	--dhcp-match=set:ipxe,175 --dhcp-boot=tag:!ipxe,pxelinux.0 --dhcp-boot=tag:ipxe,boot.ipxe \
	--log-facility=/run/dnsmasq.log --log-dhcp --user=root

# In labs for libvirt only.
if test -x /usr/sbin/libvirtd; then
	# In /run/lock it notes who reads a guest's console.
	mkdir -p /run/libvirt/drivers /run/lock /var/log/libvirt
	# Of libvirt's drivers only that of Xen: others want users, D-Bus and udev, which are not here.
	ln -s /usr/lib/*/libvirt/connection-driver/libvirt_driver_libxl.so /run/libvirt/drivers/
	# libvirtd ends where it knows no model of the processor. QEMU emulates none with VME, and
	# every model that libvirt knows has it; guests are not told of this one.
	sed -i "/'vme'/d" /usr/share/libvirt/cpu_map/x86_486.xml
	log=/var/log/libvirt/libvirtd.log
	LIBVIRT_DRIVER_DIR=/run/libvirt/drivers LIBVIRT_LOG_OUTPUTS=3:file:$log \
		LD_PRELOAD=/usr/lib/imagekit/unpack.so libvirtd --daemon
	if ! virsh -q -c xen:///system uri >/dev/null; then
		tail -n 20 $log
		failed "libvirtd does not answer"
	fi
fi

cd /usr/lib/imagekit
python3 -m imagekit.proof.dom0.agent
sync
busybox poweroff -f
