"""imagekit: builds Xen guest images and proves that they boot."""

__version__ = "0.1.0"
