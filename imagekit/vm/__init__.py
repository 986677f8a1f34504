"""One way to run QEMU: command line, firmware, sockets to the guest, QMP, confinement."""
