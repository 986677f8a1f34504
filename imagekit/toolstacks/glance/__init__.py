"""OpenStack Glance: images with the properties that nova's Xen drivers read."""
