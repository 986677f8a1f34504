"""Disk images, partition tables, ISOs and archives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pycdlib

from imagekit.disk import iso_child, qcow2
from imagekit.disk import vhd_format as form
from imagekit.disk.vhd_reader import VhdReader
from imagekit.errors import ImagekitError
from imagekit.guest.table import UnreadableTable, read_table
from imagekit.host.signing import SIGNATURES, SUMS
from imagekit.recovery import container
from imagekit.recovery.about import read_about
from imagekit.recovery.container import BLOCK, Checked, Member, header, padding
from imagekit.recovery.unpacked import unpack_tree

from .. import mutate
from ..target import Target
from .network import mutate_json

_QCOW2_SIZE = 4 << 20
"""Bytes that the file has beyond the header, as far as the parser is told."""


def _qcow2s() -> list[bytes]:
    def head(version: int) -> bytes:
        return struct.pack(
            ">4sIQIIQIIQQIIQ",
            *(b"QFI\xfb", version, 0, 0, 16, 1 << 30, 0, 2, 0x30000, 0x10000, 1, 0, 0),
        )

    v3 = head(3) + struct.pack(">QQQII", 0, 0, 0, 4, 104)
    zstd = head(3) + struct.pack(">QQQII", 8, 0, 0, 4, 112) + b"\1" + bytes(7)
    wide = head(3) + struct.pack(">QQQII", 16, 0, 0, 4, 104)
    names = struct.pack(">II", 0x6803F857, 48) + bytes(48)
    bitmaps = struct.pack(">II", 0x23852875, 24) + bytes(24)
    return [
        head(2) + bytes(8),
        v3 + names + bytes(8),
        zstd + names + bitmaps + bytes(8),
        wide + bytes(40),
    ]


_QCOW2 = mutate.fields(
    ">",
    *((0, 4), (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8)),
    *((56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 4), (108, 4)),
    *((112, 4), (116, 4), (160, 4), (164, 4)),
)


def _mutate_qcow2(source: random.Random, data: bytes) -> bytes:
    return mutate.binary(source, data, _QCOW2)


def _qcow2(data: bytes) -> bool:
    raw = data.ljust(512, b"\0")
    qcow2.parse_header(raw, len(raw) + _QCOW2_SIZE, "fuzz")
    return True


_VHD_BYTES = 4 << 20
"""Size of the file that the input becomes; what the input does not say is a hole."""


def _vhds() -> list[bytes]:
    identity = UUID("5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11")
    dynamic = form.Footer(form.DYNAMIC, 8 << 20, 1, identity).pack()
    fixed = form.Footer(form.FIXED, _VHD_BYTES - 512, 1, identity).pack()
    link = form.Footer(form.DIFFERENCING, 8 << 20, 1, identity).pack()
    table = struct.pack(">4I", 4, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF).ljust(512, b"\xff")
    parent = form.Parent(identity, 1, "base.vhd", (form.Locator(b"W2ku", b"b\0", 2048),))
    return [
        dynamic + form.Header(1536, 4).pack() + table,
        dynamic + form.Header(1536, 16, block_size=1 << 19).pack() + table,
        link + form.Header(1536, 4, parent=parent).pack() + table,
        fixed + bytes(1536),
    ]


_FOOTER = ((8, 4), (12, 4), (16, 8), (28, 4), (48, 8), (60, 4), (68, 8))
_HEADER = ((0, 8), (16, 8), (24, 4), (28, 4), (32, 4), (40, 8), (64, 4), (576, 4), (584, 8))
_VHD = mutate.fields(
    ">",
    *_FOOTER,
    *((512 + at, size) for at, size in _HEADER),
    *((1536 + 4 * index, 4) for index in range(8)),
)


def _mutate_vhd(source: random.Random, data: bytes) -> bytes:
    """A field; then both checksums are made right, nearly always."""
    changed = bytearray(mutate.binary(source, data, _VHD))
    if source.random() < 0.93 and len(changed) >= 1536:
        struct.pack_into(">I", changed, 64, 0)
        struct.pack_into(">I", changed, 64, form.checksum(changed[:512]))
        struct.pack_into(">I", changed, 512 + 36, 0)
        struct.pack_into(">I", changed, 512 + 36, form.checksum(changed[512:1536]))
    return bytes(changed)


def _vhd(data: bytes) -> bool:
    """The input is the beginning of the file, its first sector the end of it too."""
    fd = os.memfd_create("fuzz")
    try:
        os.ftruncate(fd, _VHD_BYTES)
        os.pwrite(fd, data[:8192], 0)
        os.pwrite(fd, data[:512].ljust(512, b"\0"), _VHD_BYTES - 512)
        disk = VhdReader(fd, "fuzz", link=True)
        assert disk.data_size <= form.MAX_SIZE
        for count, _ in enumerate(disk.written()):
            if count > 64:
                break
    finally:
        os.close(fd)
    return True


def _tables() -> list[bytes]:
    mbr = bytearray(512)
    mbr[510:] = b"\x55\xaa"
    for index, (kind, start, count) in enumerate(((0x83, 2048, 4096), (0x82, 8192, 64), (5, 1, 6))):
        struct.pack_into(
            "<B3xB3xII", mbr, 446 + 16 * index, 0x80 * (index == 0), kind, start, count
        )
    chain = bytearray()
    for index in range(1, 4):
        link = bytearray(512)
        link[510:] = b"\x55\xaa"
        struct.pack_into("<B3xB3xII", link, 446, 0, 0x83, 100, 10)
        if index < 3:
            struct.pack_into("<B3xB3xII", link, 462, 0, 5, index, 10)
        chain += link
    protective = bytearray(512)
    protective[510:] = b"\x55\xaa"
    struct.pack_into("<B3xB3xII", protective, 446, 0, 0xEE, 1, 0xFFFFFFFF)
    entries = bytearray(8 * 128)
    for index in range(3):
        struct.pack_into("<16s16sQQQ", entries, 128 * index, b"\1" * 16, b"\2" * 16, 34, 99, 4)
        entries[128 * index + 56 : 128 * index + 62] = "abc".encode("utf-16-le")
    gpt = bytearray(512)
    struct.pack_into("<8sIIIIQQQQ16sQII", gpt, 0, b"EFI PART", 0x10000, 92, 0, 0, 1, 99, 34, 90,
                     b"\3" * 16, 2, 8, 128)  # fmt: skip
    return [bytes(mbr + chain), _summed(protective + gpt + entries)]


def _summed(data: bytes | bytearray) -> bytes:
    """A GPT with right checksums, as far as its numbers let it have any."""
    changed = bytearray(data)
    if len(changed) < 1024:
        return bytes(changed)
    (length,) = struct.unpack_from("<I", changed, 512 + 12)
    lba, count, size = struct.unpack_from("<QII", changed, 512 + 72)
    entries = changed[lba * 512 : lba * 512 + min(count * size, 1 << 20)] if lba < 1 << 20 else b""
    struct.pack_into("<I", changed, 512 + 88, zlib.crc32(entries))
    struct.pack_into("<I", changed, 512 + 16, 0)
    struct.pack_into("<I", changed, 512 + 16, zlib.crc32(changed[512 : 512 + min(length, 512)]))
    return bytes(changed)


_RECORDS = tuple(
    (at + 16 * index + place, size)
    for at in (446, 512 + 446, 1024 + 446)
    for index in range(2)
    for place, size in ((0, 1), (4, 1), (8, 4), (12, 4))
)
_GPT = mutate.fields(
    "<",
    *((450, 1), (512, 4), (524, 4), (528, 4), (584, 8), (592, 4), (596, 4), (1024, 8)),
    *((1056, 8), (1064, 8), (1072, 8), (1152, 8), (1184, 8), (1192, 8), (1080, 4)),
)
_MBR = mutate.fields("<", *_RECORDS, (510, 2))


def _mutate_table(source: random.Random, data: bytes) -> bytes:
    if data[512:520] != b"EFI PART":
        return mutate.binary(source, data, _MBR)
    changed = mutate.binary(source, data, _GPT)
    return _summed(changed) if source.random() < 0.9 else changed


def _table(data: bytes) -> bool:
    kind, entries = read_table(lambda at, count: data[at * 512 : (at + count) * 512])
    return kind != "none" and bool(entries)


def _isos() -> list[bytes]:
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09", joliet=3, vol_ident="FUZZ")
    iso.add_directory("/BOOT", rr_name="boot", joliet_path="/boot")
    for name, content in (("VMLINUZ", b"kernel"), ("INITRD", b"x" * 3000), ("ISOLINUX", bytes(64))):
        iso.add_fp(
            io.BytesIO(content), len(content), f"/BOOT/{name}.;1",
            rr_name=name.lower() * 3, joliet_path=f"/boot/{name.lower()}",
        )  # fmt: skip
    iso.add_symlink("/LINK.;1", "link", "boot/vmlinuz")
    iso.add_eltorito("/BOOT/ISOLINUX.;1", bootcatfile="/BOOT/BOOT.CAT;1", rr_bootcatname="boot.cat",
                     joliet_bootcatfile="/boot/boot.cat")  # fmt: skip
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return [out.getvalue()]


def _mutate_iso(source: random.Random, data: bytes) -> bytes:
    """Volume descriptors, path tables and directories; the files are left as they are."""
    start = 16 * 2048
    end = min(len(data), start + 24 * 2048)
    if end <= start or source.random() < 0.02:
        return mutate.binary(source, data)
    changed = bytearray(data)
    for _ in range(20):
        at = source.randrange(start, end)
        if changed[at]:
            break
    size = source.choice((1, 1, 2, 4))
    mutate.set_field(source, changed, mutate.Field(at, size, source.choice("<>")))
    return bytes(changed)


def _iso(data: bytes) -> bool:
    fd = os.memfd_create("fuzz")
    os.write(fd, data)
    # Closes the descriptor.
    iso_child.content((fd,), "fuzz", ())
    return True


_NOT_AN_ISO = ("Valid ISO9660", "does not have a valid", "not a valid")


def _trees() -> list[bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, link in (
            ("a", tarfile.DIRTYPE, ""),
            ("a/file", tarfile.REGTYPE, ""),
            ("a/link", tarfile.SYMTYPE, "file"),
            ("up", tarfile.SYMTYPE, "a/file"),
            ("long" * 40, tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            content = b"x" * 600 if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return [out.getvalue()[: 14 * 512]]


_TAR_NAMES = (
    b"../x",
    b"/etc/x",
    b"a/../..",
    b"a/link/x",
    b"a",
    b"a/file",
    b"",
    b"./a",
    b"..",
    b"up/x",
)


def _mutate_tar(source: random.Random, data: bytes) -> bytes:
    """Name, type, link, size or any byte of one header; its checksum is made right mostly."""
    at = 512 * source.randrange(max(1, len(data) // 512))
    block = bytearray(data[at : at + 512])
    if len(block) < 512:
        return mutate.binary(source, data)
    kind = source.randrange(5)
    if kind < 2:
        place = (0, 157)[kind]
        name = source.choice(_TAR_NAMES)
        block[place : place + 100] = name.ljust(100, b"\0")
    elif kind == 2:
        block[156] = source.choice(b"0123456789LKxgSV\0")
    elif kind == 3:
        size = source.choice((0, 1, 511, 600, 1 << 20, 1 << 32, source.randrange(2000)))
        block[124:136] = b"%011o\0" % size
    else:
        block = bytearray(mutate.binary(source, bytes(block))[:512].ljust(512, b"\0"))
    if source.random() < 0.95:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + 512 :]


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    # In memory: a million directories are no load for a disk.
    place = tempfile.mkdtemp(prefix="imagekit-fuzz-", dir="/dev/shm")
    try:
        yield Path(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _tree(data: bytes) -> bool:
    with _scratch() as place:
        (place / "tree.tar").write_bytes(data)
        outside = {"tree.tar", ".trees"}
        try:
            target = unpack_tree(place, "tree.tar")
        finally:
            assert {path.name for path in place.iterdir()} <= outside
        for folder, _, names in os.walk(target):
            for name in names:
                assert os.path.realpath(f"{folder}/{name}").startswith(f"{place}/")
    return True


_MEMBERS = (
    ("bundle.json", b"{}"),
    ("packages/a_1_all.deb", b"!<arch>\n" * 9),
    ("spec.yaml", b"name: a\n"),
)


def _bundles() -> list[bytes]:
    with _scratch() as place:
        path = place / "a.bundle"
        about = {"bundle": 1, "name": "web01", "imagekit": "0.1", "kind": "build", "disks": {}}
        container.write_container(path, about, list(_MEMBERS), None)
        signed = place / "b.bundle"
        container.write_container(
            signed, about, list(_MEMBERS), lambda _: (SIGNATURES[0], b"signature")
        )
        return [path.read_bytes(), signed.read_bytes()]


def _mutate_bundle(source: random.Random, data: bytes) -> bytes:
    """The index changes, and what digests it is made again; or any header or byte."""
    if source.random() < 0.4 or len(data) < 3 * BLOCK:
        return mutate.binary(source, data, mutate.fields("<", (0, 4), (124, 8), (148, 4)))
    digits = data[124:135]
    size = int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else 0
    index, after = data[BLOCK : BLOCK + size], BLOCK + size + padding(size)
    rest = data[after:]
    changed = mutate_json(source, index)[: 1 << 16]
    lines = rest[BLOCK : BLOCK + 4096].split(b"\0")[0].splitlines(keepends=True)
    sums = b"".join(lines)
    new = b"".join((_sha(changed) + b"  index.json\n", *lines[1:]))
    tail = rest[BLOCK + len(sums) + padding(len(sums)) :]
    parts = ((container.INDEX, changed), (SUMS, new))
    made = b"".join(header(name, len(c)) + c + bytes(padding(len(c))) for name, c in parts)
    return made + tail


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _bundle(data: bytes) -> bool:
    checked: Checked = container._read(io.BytesIO(data), Path("fuzz"), None)
    assert all(isinstance(member, Member) for member in checked.members)
    read_about(checked.about, Path("fuzz"))
    return True


TARGETS = (
    Target("qcow2", _qcow2s, _mutate_qcow2, _qcow2, ("not a qcow2", "unknown version")),
    Target("vhd", _vhds, _mutate_vhd, _vhd, ("no VHD footer", "of its VHD footer", "copies")),
    Target(
        "partition-table", _tables, _mutate_table, _table, ("no GPT header",), (UnreadableTable,)
    ),
    Target("iso", _isos, _mutate_iso, _iso, _NOT_AN_ISO),
    Target("tree", _trees, _mutate_tar, _tree, ("not be opened", "invalid header", "empty file")),
    Target("bundle", _bundles, _mutate_bundle, _bundle, ("is no bundle",), (ImagekitError,)),
)
