"""DHCP, TFTP, PXELINUX and iPXE, publishing, pypxeboot."""
