"""A guest's logical volume: made, recognised and removed, on a host with LVM.

Sources: lvm(8) (valid names), lvcreate(8), lvs(8), lib/misc/lvm-string.c of LVM2 (reserved names).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path

from imagekit.errors import ExistsError, HostError, SpecError, ToolError
from imagekit.host.run import run

_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}")
_RESERVED_STARTS = ("snapshot", "pvmove")
_RESERVED_PARTS = (
    *("_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog"),
    *("_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig"),
)
_ABSENT = ("Failed to find logical volume", "not found")
_TIMEOUT = 120.0


def check_group(vg: str) -> str:
    """``vg`` if it can be the name of a volume group; raises ValueError."""
    if not _NAME.fullmatch(vg) or vg in (".", ".."):
        raise ValueError(f"{vg!r} is no name of a volume group")
    return vg


def check_volume(name: str) -> str:
    """``name`` if it can be the name of a logical volume; raises ValueError."""
    reserved = name.startswith(_RESERVED_STARTS) or any(p in name for p in _RESERVED_PARTS)
    if reserved or not _NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"{name!r} is no name of a logical volume")
    return name


def volume_name(guest: str) -> str:
    """The volume of ``guest``, as xen-tools calls it; raises SpecError for a name LVM refuses."""
    name = f"{guest}-disk"
    try:
        return check_volume(name)
    except ValueError:
        raise SpecError(
            f"LVM has no logical volume named {name!r}",
            where="NAME",
            hint="name the guest otherwise: LVM keeps some names for itself (lvm(8))",
        ) from None


def check_room(vg: str, guest: str, size: int) -> None:
    """Raise when ``vg`` cannot take a new volume of ``size`` bytes for ``guest``.

    SpecError without such a group, ExistsError when there is a volume of the name, HostError
    without room.
    """
    name = volume_name(guest)
    found = run(
        [
            *("vgs", "--noheadings", "--nosuffix", "--units", "b", "--separator", ":"),
            *("-o", "vg_name,vg_free,vg_extent_size", vg),
        ],
        check=False,
        timeout=_TIMEOUT,
    )
    fields = found.text.strip().split(":")
    if found.returncode != 0 or len(fields) != 3 or not all(f.isdigit() for f in fields[1:]):
        raise SpecError(f"there is no volume group {vg} here", where="--vg", hint="vgs lists them")
    free, extent = int(fields[1]), max(int(fields[2]), 1)
    if -(-size // extent) * extent > free:
        raise HostError(
            f"the volume group {vg} has {free} bytes free, and the disk needs {size}",
            hint="vgextend it, or remove a volume",
        )
    if _tags(vg, name) is not None:
        raise ExistsError(
            "is a logical volume already",
            where=f"{vg}/{name}",
            hint="--device takes a volume that exists; lvremove removes one",
        )


def make_volume(
    vg: str, guest: str, size: int, tag: str | None, note: Callable[[str, str], None]
) -> Path:
    """Make the logical volume of ``guest`` with at least ``size`` bytes; returns its device.

    It gets a tag of its own: what does not bear it is never removed. ``note`` is told name and tag
    before the volume exists. A volume that bears ``tag``, of an earlier try, is taken as it is.
    Raises as :func:`check_room`, ToolError.
    """
    name = volume_name(guest)
    device = Path("/dev") / vg / name
    if tag is not None and tag in (_tags(vg, name) or ()):
        return device
    check_room(vg, guest, size)
    tag = f"imagekit-{secrets.token_hex(16)}"
    note(name, tag)
    run(
        [
            *("lvcreate", "--yes", "--quiet", "--wipesignatures", "n", "--zero", "n"),
            *("--addtag", tag, "--size", f"{size}b", "--name", name, vg),
        ],
        timeout=_TIMEOUT,
        what=f"making the logical volume {vg}/{name}",
    )
    if not device.is_block_device():
        raise HostError(f"lvcreate made no {device}", hint="is udevd running?")
    return device


def remove_volume(vg: str, name: str, tag: str) -> None:
    """Remove the volume if it still bears ``tag``. Raises ToolError, also while it is in use."""
    if tag not in (_tags(vg, name) or ()):
        return
    run(
        ["lvremove", "--yes", "--quiet", f"{vg}/{name}"],
        timeout=_TIMEOUT,
        what=f"removing the logical volume {vg}/{name}",
    )


def _tags(vg: str, name: str) -> tuple[str, ...] | None:
    """The tags of a volume, None when there is none of the name; raises ToolError.

    To lvs(8) a volume that is not there is a failure like any other, told apart by its words
    (tools/toollib.c of LVM2).
    """
    argv = ["lvs", "--noheadings", "-o", "lv_tags", f"{vg}/{name}"]
    done = run(argv, check=False, timeout=_TIMEOUT)
    if done.returncode == 0:
        return tuple(done.text.strip().split(","))
    said = done.stderr.decode("utf-8", "backslashreplace")
    if said.strip() and not any(words in said for words in _ABSENT):
        raise ToolError("looking for logical volumes failed", output=said)
    return None
