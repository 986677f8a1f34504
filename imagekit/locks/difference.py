"""In what two builds differ: the first file and the reason, not just an offset.

Trees are compared as the tar files of the store, member by member. A disk is compared block by
block, and debugfs(8) tells which file of its ext4 a block belongs to.
"""

from __future__ import annotations

import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imagekit.disk.extents import BLOCK, data_extents, opened, read_exactly, size_of
from imagekit.disk.layout import Part
from imagekit.errors import ImageError
from imagekit.host.program import confined, given
from imagekit.host.run import run

CHUNK = 1 << 20
SHOWN = 4096
"""Bytes of a block in which a difference is looked for; our ext4 has blocks of that size."""
MAX_BLOCKS = 200
_SAYS = 64 << 20
"""Bytes that are taken of what debugfs says: it has a line for each group of blocks."""


@dataclass(frozen=True)
class Difference:
    """``file`` of the artefact ``artefact`` is not the same in both; ``reason`` says in what."""

    artefact: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.artefact}: {self.file}: {self.reason}"


def tar_differences(first: Path, second: Path) -> Iterator[Difference]:
    """Differences of two tar files of trees, in their order. Raises ImageError for a damaged one.

    Members are expected sorted by name, as ``imagekit.installs.stages.trees`` packs them.
    """
    name = first.name
    try:
        with tarfile.open(first, "r:") as a, tarfile.open(second, "r:") as b:
            right = {m.name: m for m in b}
            seen = set()
            for count, left in enumerate(a):
                if count > 5_000_000:
                    raise ImageError("has too many files to be compared", where=str(first))
                seen.add(left.name)
                other = right.get(left.name)
                if other is None:
                    yield Difference(name, _shown(left), "is only in the first build")
                    continue
                reason = _reason(left, other, a, b)
                if reason:
                    yield Difference(name, _shown(left), reason)
            for member in right.values():
                if member.name not in seen:
                    yield Difference(name, _shown(member), "is only in the second build")
            if first.stat().st_size == second.stat().st_size:
                return
    except (tarfile.TarError, EOFError) as error:
        raise ImageError(f"is not a whole tar file: {error}", where=str(first)) from None


def _shown(member: tarfile.TarInfo) -> str:
    return "/" + member.name.removeprefix("./")


def _reason(
    left: tarfile.TarInfo, right: tarfile.TarInfo, a: tarfile.TarFile, b: tarfile.TarFile
) -> str | None:
    for what, one, two in (
        ("type", left.type.decode("latin-1"), right.type.decode("latin-1")),
        ("mode", oct(left.mode), oct(right.mode)),
        ("owner", f"{left.uid}:{left.gid}", f"{right.uid}:{right.gid}"),
        ("link target", left.linkname, right.linkname),
        ("size", left.size, right.size),
    ):
        if one != two:
            content = ""
            if what == "size" and left.isreg() and right.isreg():
                content = f"; {_content(a.extractfile(left), b.extractfile(right)) or ''}"
            return f"{what} {one} in the first, {two} in the second{content}"
    if left.isreg():
        found = _content(a.extractfile(left), b.extractfile(right))
        if found:
            return found
    times = [m.pax_headers.get("mtime", str(m.mtime)) for m in (left, right)]
    if times[0] != times[1]:
        return f"modification time {times[0]} in the first, {times[1]} in the second"
    if left.pax_headers != right.pax_headers:
        return "extended attributes differ"
    return None


def _content(left: IO[bytes] | None, right: IO[bytes] | None) -> str | None:
    position = 0
    while left is not None and right is not None:
        one, two = left.read(CHUNK), right.read(CHUNK)
        if one == two:
            if not one:
                return None
            position += len(one)
            continue
        at = next((i for i, (x, y) in enumerate(zip(one, two, strict=False)) if x != y), None)
        if at is None:
            at = min(len(one), len(two))
        show = (one[max(0, at - 16) : at + 32], two[max(0, at - 16) : at + 32])
        return f"content differs at byte {position + at}: {show[0]!r} and {show[1]!r}"
    return None


def differing_blocks(first: Path, second: Path) -> Iterator[int]:
    """Offsets in bytes of the differing 4 KiB blocks of two raw images, in order."""
    with opened(first) as one, opened(second) as two:
        size = size_of(one)
        if size != size_of(two):
            yield min(size, size_of(two)) // SHOWN * SHOWN
            return
        pieces = sorted(
            {
                offset - offset % BLOCK + step
                for fd in (one, two)
                for offset, length in data_extents(fd)
                for step in range(0, length + BLOCK, BLOCK)
            }
        )
        buffers = bytearray(BLOCK), bytearray(BLOCK)
        for start in pieces:
            length = min(BLOCK, size - start)
            if length <= 0:
                continue
            views = [memoryview(buffer)[:length] for buffer in buffers]
            for fd, view in zip((one, two), views, strict=True):
                read_exactly(fd, view, start)
            if views[0] != views[1]:
                for at in range(0, length, SHOWN):
                    if views[0][at : at + SHOWN] != views[1][at : at + SHOWN]:
                        yield start + at


def disk_difference(first: Path, second: Path, partitions: Sequence[Part]) -> Difference | None:
    """The first difference of two raw images with ``partitions``, None when equal."""
    blocks = differing_blocks(first, second)
    offset = next(blocks, None)
    if offset is None:
        return None
    for part in partitions:
        start, size = part.start, part.size
        if start <= offset < start + size:
            if part.filesystem == "ext4":
                # Bitmaps and checksums come first and only follow from some file's difference.
                inside = [offset, *itertools.islice(blocks, MAX_BLOCKS)]
                wanted = [(x - start) // SHOWN for x in inside if x < start + size]
                return _in_ext4(first, second, start, wanted, part.role)
            return Difference(
                first.name, f"the {part.role} partition", f"differs at byte {offset - start}"
            )
    return Difference(first.name, "the disk outside its partitions", f"differs at byte {offset}")


def _in_ext4(first: Path, second: Path, start: int, blocks: Sequence[int], role: str) -> Difference:
    for image in (first, second):
        inode, block = _inode_of(first, second, image, start, blocks)
        if inode is None:
            continue
        shown = _path_of(image, start, inode) or f"inode {inode}"
        values = [_inode(i, start, inode) for i in (first, second)]
        changed = [k for k in values[0] if values[0][k] != values[1].get(k)]
        if changed:
            key = changed[0]
            reason = f"{key} {values[0][key]} in the first, {values[1].get(key)} in the second"
        else:
            reason = f"content differs in block {block} of the file system"
        return Difference(first.name, shown, reason)
    return Difference(
        first.name, f"the {role} file system", f"its own structures differ in block {blocks[0]}"
    )


def _debugfs(image: Path, start: int, command: str) -> str:
    # The image may have been made elsewhere, by whom the lock comes from.
    with opened(image) as fd:
        argv = ["debugfs", "-R", command, f"{given(fd)}?offset={start}"]
        return run(
            confined(argv, readable=(fd,)),
            timeout=120,
            what="reading the file system",
            pass_fds=(fd,),
            output_limit=_SAYS,
        ).text


def _inode_of(
    first: Path, second: Path, image: Path, start: int, blocks: Sequence[int]
) -> tuple[int | None, int]:
    """The first inode that owns one of ``blocks`` or whose record differs there, and the block."""
    shown = _debugfs(image, start, "icheck " + " ".join(map(str, blocks)))
    owners = {int(b): int(i) for b, i in re.findall(r"(?m)^(\d+)\s+(\d+)$", shown)}
    header = _debugfs(image, start, "stats")
    per_group = re.search(r"(?m)^Inodes per group:\s+(\d+)", header)
    size = re.search(r"(?m)^Inode size:\s+(\d+)", header)
    tables = [int(n) for n in re.findall(r"inode table at (\d+)", header)]
    for block in blocks:
        # Below 11 lie the file system's own files (ext4 documentation, "Special inodes").
        if owners.get(block, 0) > 10 or owners.get(block) == 2:
            return owners[block], block
        if not per_group or not size:
            continue
        count, length = int(per_group[1]), int(size[1])
        for group, table in enumerate(tables):
            if table <= block < table + count * length // SHOWN:
                record = _first_record(first, second, start + block * SHOWN, length)
                return group * count + (block - table) * SHOWN // length + record + 1, block
    return None, blocks[0]


def _first_record(first: Path, second: Path, offset: int, length: int) -> int:
    """Index of the first inode record that differs in the 4 KiB at ``offset``."""
    with first.open("rb") as one, second.open("rb") as two:
        one.seek(offset)
        two.seek(offset)
        left, right = one.read(SHOWN), two.read(SHOWN)
    for at in range(0, SHOWN, length):
        if left[at : at + length] != right[at : at + length]:
            return at // length
    return 0


def _path_of(image: Path, start: int, inode: int) -> str | None:
    match = re.search(rf"(?m)^{inode}\s+(/.*)$", _debugfs(image, start, f"ncheck {inode}"))
    return match[1] if match else None


def _inode(image: Path, start: int, inode: int) -> dict[str, str]:
    """What debugfs prints of an inode, by field."""
    text = _debugfs(image, start, f"stat <{inode}>")
    return {
        key: re.sub(r"\s+", " ", value.strip())
        for key, value in re.findall(
            r"(ctime|atime|mtime|crtime|Mode|User|Group|Size|Links|Flags|Generation):\s*"
            r"(\S+(?: -- .*)?)",
            text,
        )
    }
