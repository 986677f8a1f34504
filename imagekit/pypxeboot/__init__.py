"""The program for dom0 that boots a domU over the network: DHCP, TFTP, HTTP, PXELINUX, iPXE."""
