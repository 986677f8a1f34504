"""Boots builds: plain QEMU, and Xen inside QEMU."""
