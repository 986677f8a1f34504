"""Names of the image's disk and partitions, in the appliance and for people."""

from __future__ import annotations

DISK = "/dev/sda"


def partition_name(device: str) -> str:
    """What users call an appliance's device: "partition 2", "the disk", "vg0/root"."""
    if device == DISK:
        return "the disk"
    if device.startswith(DISK):
        return f"partition {device.removeprefix(DISK)}"
    return device.removeprefix("/dev/")


def partition_number(device: str) -> int | None:
    """Number of a partition of the disk, 0 for the disk itself, None for anything else."""
    rest = device.removeprefix(DISK)
    if not device.startswith(DISK):
        return None
    if not rest:
        return 0
    return int(rest) if rest.isdigit() else None
