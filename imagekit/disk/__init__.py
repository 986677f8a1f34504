"""Layout, file systems, boot loader, assembly, and the formats raw, qcow2 and VHD."""
