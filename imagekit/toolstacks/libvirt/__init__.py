"""libvirt's Xen driver: domain XML, and defining it."""
