"""File systems made from a tree into a region of a raw image, without mounting anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from imagekit.errors import HostError, SpecError, ToolError
from imagekit.host import userns
from imagekit.host.run import run
from imagekit.host.tools import require
from imagekit.spec.values import format_size

MIB = 1 << 20
EXT4_BLOCK = 4096


@dataclass(frozen=True)
class Region:
    """Where a file system goes: raw image, start and size in bytes."""

    image: Path
    start: int
    size: int


@dataclass(frozen=True)
class _New:
    """A file system to make, as :func:`make` was asked for it."""

    tree: Path | None
    region: Region
    uuid: str
    label: str
    epoch: int | None
    log: Path | None


def make(
    filesystem: str,
    tree: Path | None,
    region: Region,
    *,
    uuid: str,
    label: str = "",
    epoch: int | None = None,
    log: Path | None = None,
) -> None:
    """Make ``filesystem`` (ext4, xfs, btrfs, vfat, swap) holding ``tree`` in ``region``.

    ``epoch`` (seconds since 1970) stamps the file system for reproducible images. Raises SpecError
    when the tree does not fit, HostError or ToolError when the tool is missing or fails.
    """
    makers = {"ext4": _ext4, "xfs": _xfs, "btrfs": _btrfs, "vfat": _vfat, "swap": _swap}
    makers[filesystem](_New(tree, region, uuid, label, epoch, log))


def _ext4(new: _New) -> None:
    extended = [
        f"offset={new.region.start}",
        f"hash_seed={new.uuid}",
        "root_owner=0:0",
        "nodiscard",
    ]
    env = {"MKE2FS_SYNC": "0"}
    if new.epoch is not None:
        env["E2FSPROGS_FAKE_TIME"] = str(new.epoch)
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(EXT4_BLOCK), "-U", new.uuid, "-m", "1"]
    # GRUB 2.06 reads none of these; orphan_file would need kernel 5.15 in the guest.
    argv += ["-O", "^orphan_file,^metadata_csum_seed,^inline_data,^casefold,^bigalloc"]
    # One inode per 8 KiB: small disks hold whole distributions of small files.
    argv += ["-i", "8192" if new.region.size < 4 << 30 else "16384", "-E", ",".join(extended)]
    if new.label:
        argv += ["-L", new.label[:16]]
    if new.tree is not None:
        argv += ["-d", str(new.tree)]
    argv += [str(new.region.image), str(new.region.size // EXT4_BLOCK)]
    try:
        run([*userns.prefix(), *argv], env=env, log=new.log, what="making the ext4 file system")
    except ToolError as error:
        _explain_space(error, ("ould not allocate", "No space left"), new.tree, new.region)
        raise
    if new.epoch is not None and new.tree is not None:
        _settle_ext4_times(new.region, new.epoch)


def _settle_ext4_times(region: Region, epoch: int) -> None:
    """Set the times that mke2fs 1.47.0 copies from the build: atime, ctime and crtime.

    mke2fs(8) from 1.47.1 clamps them to SOURCE_DATE_EPOCH by itself.
    """
    target = f"{region.image}?offset={region.start}"
    listing = run(
        ["debugfs", "-R", "stats -h", target], timeout=60, what="reading the file system"
    ).text
    inodes = next(
        (int(x.split(":")[1]) for x in listing.splitlines() if x.startswith("Inode count:")), 0
    )
    free = run(["dumpe2fs", "-h", target], timeout=60, what="reading the file system").text
    unused = next(
        (int(x.split(":")[1]) for x in free.splitlines() if x.startswith("Free inodes:")), 0
    )
    stamp = f"@{epoch}"
    last = inodes - unused
    commands = [
        f"sif <{inode}> {field} {stamp}"
        for inode in [2, *range(11, last + 1)]
        for field in ("atime", "ctime", "crtime", "atime_extra", "ctime_extra", "crtime_extra")
        if not field.endswith("extra")
    ]
    commands += [
        f"sif <{inode}> {field} 0"
        for inode in [2, *range(11, last + 1)]
        for field in ("atime_extra", "ctime_extra", "crtime_extra")
    ]
    run(
        ["debugfs", "-w", "-f", "-", target],
        input=("\n".join(commands) + "\n").encode(),
        env={"E2FSPROGS_FAKE_TIME": str(epoch)},
        timeout=300,
        what="setting the file system's times",
    )


def _explain_space(
    error: ToolError, words: tuple[str, ...], tree: Path | None, region: Region
) -> None:
    """Tell a disk that is too small for its tree from a host that has no space left."""
    if any(word in error.output for word in words):
        status = os.statvfs(region.image.parent)
        if status.f_bavail * status.f_frsize < 64 * MIB:
            check_room(region.image.parent, region.size)
        raise _too_small(tree, region) from None


def _too_small(tree: Path | None, region: Region) -> SpecError:
    needed = f" (the tree has {format_size(tree_bytes(tree) // MIB * MIB)})" if tree else ""
    return SpecError(
        f"the tree does not fit into {format_size(region.size)}{needed}",
        where="disk.size",
        hint="make disk.size larger, or install less",
    )


def tree_bytes(tree: Path) -> int:
    """Bytes that the files of ``tree`` occupy, as a file system of 4 KiB blocks counts them."""
    total = 0
    stack = [tree]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append(Path(entry.path))
                total += 4096
            elif entry.is_file(follow_symlinks=False):
                total += -(-entry.stat(follow_symlinks=False).st_size // 4096) * 4096
    return total


def _apart(region: Region, name: str) -> Path:
    """A sparse file of the region's size, for tools that know no offset."""
    path = region.image.with_name(f"{region.image.name}.{name}")
    with path.open("xb") as stream:
        stream.truncate(region.size)
    return path


def _join(region: Region, path: Path) -> None:
    """Copy the data of ``path`` into the region, keeping its holes, and remove it."""
    from imagekit.disk.extents import data_extents

    with path.open("rb") as source, region.image.open("r+b") as target:
        for offset, length in data_extents(path):
            source.seek(offset)
            target.seek(region.start + offset)
            left = length
            while left:
                block = source.read(min(left, 1 << 20))
                if not block:
                    break
                target.write(block)
                left -= len(block)
    path.unlink()


def _xfs(new: _New) -> None:
    from imagekit.disk.xfs_protofile import write_protofile

    if new.region.size < 300 * MIB:
        raise SpecError("XFS needs at least 300MiB", where="disk", hint="use ext4 for small ones")
    apart = _apart(new.region, "xfs")
    argv = [
        "mkfs.xfs",
        "-q",
        "-f",
        "-m",
        f"uuid={new.uuid}",
        "-d",
        f"file,name={apart},size={new.region.size}",
    ]
    if new.label:
        argv += ["-L", new.label[:12]]
    if new.tree is not None:
        proto = apart.with_suffix(".proto")
        write_protofile(new.tree, proto)
        argv += ["-p", str(proto)]
    at, env = _at(new.epoch)
    try:
        run([*userns.prefix(), *at, *argv], env=env, log=new.log, what="making the XFS file system")
    except ToolError as error:
        _explain_space(error, ("No space left",), new.tree, new.region)
        raise
    _join(new.region, apart)


def _at(epoch: int | None) -> tuple[list[str], dict[str, str]]:
    """What runs a program at ``epoch`` by a clock that stands still, and its environment.

    mkfs.xfs writes the time into every inode, and knows SOURCE_DATE_EPOCH from 6.17 on only.
    faketime(1) reads the time as the local one.
    """
    if epoch is None:
        return [], {}
    when = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return [str(require("faketime")), "-f", when], {"TZ": "UTC"}


def _btrfs(new: _New) -> None:
    if new.region.size < 128 * MIB:
        raise SpecError("btrfs needs at least 128MiB", where="disk", hint="use ext4 for small ones")
    apart = _apart(new.region, "btrfs")
    argv = ["mkfs.btrfs", "-q", "-f", "-U", new.uuid, "-b", str(new.region.size)]
    if new.label:
        argv += ["-L", new.label]
    if new.tree is not None:
        argv += ["--rootdir", str(new.tree)]
    try:
        run([*userns.prefix(), *argv, str(apart)], log=new.log, what="making the btrfs file system")
    except ToolError as error:
        words = ("No space left", "not enough space", "writing to device")
        _explain_space(error, words, new.tree, new.region)
        raise
    if apart.stat().st_size != new.region.size:
        # mkfs.btrfs --rootdir makes the file as large as it thinks the tree needs.
        raise _too_small(new.tree, new.region)
    _join(new.region, apart)


def _vfat(new: _New) -> None:
    apart = _apart(new.region, "vfat")
    argv = ["mkfs.vfat", "--invariant", "-i", new.uuid, "-n", (new.label or "ESP")[:11], str(apart)]
    run(argv, log=new.log, timeout=60, what="making the FAT file system")
    if new.tree is not None:
        names = sorted(str(p) for p in new.tree.iterdir())
        env = {"SOURCE_DATE_EPOCH": str(new.epoch)} if new.epoch is not None else {}
        run(["mcopy", "-s", "-m", "-Q", "-i", str(apart), *names, "::/"], env=env, log=new.log)
    _join(new.region, apart)


def _swap(new: _New) -> None:
    apart = _apart(new.region, "swap")
    apart.chmod(0o600)
    run(
        ["mkswap", "-q", "-U", new.uuid, str(apart)],
        log=new.log,
        timeout=60,
        what="making the swap area",
    )
    _join(new.region, apart)


def check_room(directory: Path, needed: int) -> None:
    """Raise HostError when ``directory``'s file system has fewer than ``needed`` bytes free."""
    status = os.statvfs(directory)
    if status.f_bavail * status.f_frsize < needed:
        raise HostError(
            f"no space left: {format_size(needed // MIB * MIB)} are needed",
            where=str(directory),
            hint="imagekit cache prune --all, or set IMAGEKIT_CACHE to a larger file system",
        )
