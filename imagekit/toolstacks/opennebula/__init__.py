"""OpenNebula's Xen drivers: templates for images and the VM."""
