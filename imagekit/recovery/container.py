"""The file of a bundle: a plain tar with one possible form for its content.

tar(5), POSIX ustar with GNU long sizes nowhere: every header is derived from the name and size in
the index, so that verifying is comparing, and no byte of the file is unchecked. Members in order:
``index.json`` (names, sizes and digests of all that follow it), ``SHA256SUMS`` (of index.json and
every other member, for sha256sum(1) on a rescue system), optionally ``SHA256SUMS.sig`` or
``SHA256SUMS.asc``, then the members of the index. ``tar -xf`` unpacks it anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from imagekit.errors import ExistsError, VerificationError
from imagekit.host.outfile import check_target, os_errors, replacing, temporary_name
from imagekit.host.signing import SIGNATURES, SUMS
from imagekit.host.strangers import open_folder, open_path

BLOCK = 512
END = 2 * BLOCK
CHUNK = 1 << 20
MAX_INDEX_BYTES = 16 << 20
MAX_SIGNATURE_BYTES = 1 << 16
MAX_SIZE = 8 << 30
"""A ustar header has 11 octal digits for the size: 8 GiB less one byte."""
INDEX = "index.json"
OWN = (INDEX, SUMS, *SIGNATURES)
"""What a bundle has beside its members: ``tar -xf`` would let a member of that name replace it."""
_PART = r"[A-Za-z0-9_+%~@][A-Za-z0-9_.+%~@:-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")


@dataclass(frozen=True)
class Member:
    """A file of the bundle: ``size`` in bytes."""

    name: str
    size: int
    sha256: str


def header(name: str, size: int) -> bytes:
    """The one header a member of that name and size can have."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> int:
    """Zero bytes after a member of ``size`` bytes."""
    return -size % BLOCK


def check_name(name: str) -> str:
    """``name`` if a member may have it; raises VerificationError.

    No part of it begins with a dot: such names are ours, in a directory where one is unpacked.
    """
    if len(name) > 99 or not _NAME.fullmatch(name):
        raise VerificationError(f"{name[:100]!r} is no name for a bundle's member")
    if name.partition("/")[0] in OWN:
        raise VerificationError(f"{name[:100]!r} is a file of the bundle's own")
    return name


def check_names(names: Sequence[str]) -> None:
    """Raise VerificationError unless files of all these ``names`` can lie in one directory."""
    known = set(names)
    if len(known) != len(names):
        raise VerificationError("two members have one name")
    for name in names:
        parts = name.split("/")
        if any("/".join(parts[:end]) in known for end in range(1, len(parts))):
            raise VerificationError(f"{name!r} lies in another member")


def write_container(
    target: Path,
    about: dict[str, Any],
    sources: Sequence[tuple[str, Path | bytes]],
    sign: Callable[[bytes], tuple[str, bytes]] | None,
    *,
    overwrite: bool = False,
) -> list[Member]:
    """Write the bundle ``target`` of ``sources`` (name, file or bytes), sorted; returns them.

    ``sign`` gets SHA256SUMS and returns the signature's member name and content. Raises
    ExistsError, HostError; leaves nothing half written.
    """
    members = []
    for name, source in sorted(sources, key=lambda pair: pair[0]):
        if isinstance(source, Path) and not source.is_file():
            raise VerificationError(f"{source.name} is no file", where=str(source))
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size >= MAX_SIZE:
            raise VerificationError(f"{name} is too large for a bundle (8 GiB)")
        members.append(Member(check_name(name), size, _digest(source)))
    index = json.dumps(
        {**about, "members": [vars(m) for m in members]}, indent=1, sort_keys=True
    ).encode()
    check_names([member.name for member in members])
    sums = _sums(index, members)
    by_name = dict(sources)
    with _whole(target, overwrite=overwrite) as out:
        os.fchmod(out.fileno(), 0o600)
        _put(out, INDEX, index)
        _put(out, SUMS, sums)
        if sign is not None:
            _put(out, *sign(sums))
        for member in members:
            _put(out, member.name, by_name[member.name])
        out.write(bytes(END))
    return members


@contextlib.contextmanager
def _whole(target: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A stream that becomes ``target`` when the block succeeds; killed before, it never was.

    A file without a name (open(2), O_TMPFILE) needs no sweeping after a SIGKILL. File systems
    without it get a hidden file beside the target.
    """
    check_target(target, overwrite=overwrite)
    with os_errors(target):
        directory = open_folder(target.absolute().parent)
    try:
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            with replacing(target, overwrite=overwrite) as part, part.open("wb") as out:
                yield out
            return
        with os.fdopen(fd, "wb") as out, os_errors(target):
            yield out
            out.flush()
            os.fsync(fd)
            name = temporary_name(target).name if overwrite else target.name
            try:
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
            except FileExistsError:
                raise ExistsError("exists already", where=str(target)) from None
            if overwrite:
                os.rename(name, target.name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def _sums(index: bytes, members: Sequence[Member]) -> bytes:
    lines = [f"{hashlib.sha256(index).hexdigest()}  {INDEX}"]
    lines += [f"{m.sha256}  {m.name}" for m in members]
    return "".join(f"{line}\n" for line in lines).encode()


def _digest(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _put(out: IO[bytes], name: str, source: Path | bytes) -> None:
    stream: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        out.write(header(name, size))
        while block := stream.read(CHUNK):
            out.write(block)
        out.write(bytes(padding(size)))


@dataclass(frozen=True)
class Checked:
    """A bundle every byte of which was looked at; ``signature`` is its member and content."""

    about: dict[str, Any]
    members: tuple[Member, ...]
    sums: bytes
    signature: tuple[str, bytes] | None


def read_container(path: Path, unpack: Path | None = None) -> Checked:
    """Check every byte of the bundle ``path``; with ``unpack``, an empty directory, unpack it.

    What is unpacked is complete and right once this returns. The signature is read, not checked.
    Raises VerificationError naming the member that is wrong, SpecError for a link of a stranger's.
    """
    try:
        with os.fdopen(open_path(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            return _read(stream, path, unpack)
    except OSError as error:
        raise VerificationError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _read(stream: IO[bytes], path: Path, unpack: Path | None) -> Checked:
    where = str(path)
    index = _small(stream, INDEX, MAX_INDEX_BYTES, where)
    sums = _small(stream, SUMS, MAX_INDEX_BYTES, where)
    about, members = _index(index, where)
    if sums != _sums(index, members):
        raise VerificationError(f"{SUMS} and {INDEX} do not agree", where=where)
    signature = None
    place = stream.tell()
    head = stream.read(BLOCK)
    for name in SIGNATURES:
        if head[: len(name) + 1] == name.encode() + b"\0":
            stream.seek(place)
            signature = (name, _small(stream, name, MAX_SIGNATURE_BYTES, where))
    if signature is None:
        stream.seek(place)
    for member in members:
        _member(stream, member, where, unpack)
    if stream.read(END + 1) != bytes(END):
        raise VerificationError("it does not end where it should", where=where)
    return Checked(about, members, sums, signature)


def _small(stream: IO[bytes], name: str, limit: int, where: str) -> bytes:
    """A member whose size only its header tells."""
    head = stream.read(BLOCK)
    try:
        size = int(head[124:135], 8)
    except ValueError:
        raise VerificationError(f"is no bundle: {name} is missing", where=where) from None
    if not 0 <= size <= limit or head != header(name, size):
        raise VerificationError(f"is no bundle: the header of {name} is wrong", where=where)
    data = stream.read(size)
    if len(data) != size or stream.read(padding(size)) != bytes(padding(size)):
        raise VerificationError(f"{name} is damaged", where=where)
    return data


def _index(data: bytes, where: str) -> tuple[dict[str, Any], tuple[Member, ...]]:
    try:
        about = json.loads(data)
        members = tuple(
            Member(check_name(str(m["name"])), int(m["size"]), str(m["sha256"]))
            for m in about.pop("members")
        )
        check_names([member.name for member in members])
    except VerificationError as error:
        error.where = where
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise VerificationError(f"{INDEX} is damaged", where=where) from None
    names = [m.name for m in members]
    if names != sorted(names) or not isinstance(about, dict):
        raise VerificationError(f"{INDEX} is damaged", where=where)
    if any(not 0 <= m.size < MAX_SIZE for m in members):
        raise VerificationError(f"{INDEX} claims an impossible size", where=where)
    return about, members


def _member(stream: IO[bytes], member: Member, where: str, unpack: Path | None) -> None:
    wrong = VerificationError(f"{member.name} is damaged", where=where)
    if stream.read(BLOCK) != header(member.name, member.size):
        raise wrong
    digest = hashlib.sha256()
    target: IO[bytes] | None = None
    if unpack is not None:
        file = unpack / member.name
        file.parent.mkdir(parents=True, exist_ok=True)
        target = file.open("xb")
    try:
        left = member.size
        while left:
            block = stream.read(min(CHUNK, left))
            if not block:
                raise wrong
            digest.update(block)
            if target is not None:
                target.write(block)
            left -= len(block)
    finally:
        if target is not None:
            target.close()
    pad = stream.read(padding(member.size))
    if digest.hexdigest() != member.sha256 or pad != bytes(padding(member.size)):
        raise wrong
