"""Boots builds and shows that they come up: under a real Xen in QEMU, and in plain QEMU."""
