"""What a kernel and its initrd can boot as under Xen."""
