"""Initrds: segments, drivers, hostile input."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import kernel_maker as make

from imagekit.errors import ImageError, ImagekitError
from imagekit.kernel.initrd import MAX_SEGMENTS, parse_initrd
from imagekit.kernel.kconfig import parse_config

NAMES = st.text("abcdefgh-_./0123456789", min_size=1, max_size=40).map(lambda s: "f" + s)
FILES = st.lists(st.tuples(NAMES, st.binary(max_size=90)), max_size=5)
PLAIN = st.sampled_from(["plain", *(name for name in sorted(make.COMPRESS) if name != "lz4")])


@given(st.lists(st.tuples(FILES, PLAIN, st.integers(0, 9)), min_size=1, max_size=5), st.booleans())
@settings(max_examples=120, deadline=None)
def test_all_files_of_all_segments_are_seen(
    parts: list[tuple[list[tuple[str, bytes]], str, int]], lz4_last: bool
) -> None:
    data, expected, codecs = b"", [], []
    for index, (files, codec, zeros) in enumerate(parts):
        used = "lz4" if lz4_last and index == len(parts) - 1 else codec
        archive = make.cpio(files)
        data += archive if used == "plain" else make.COMPRESS[used](archive)
        data += bytes(-len(data) % 4 + 4 * zeros)
        expected += [(name, len(content)) for name, content in files]
        codecs.append("cpio" if used == "plain" else used)
    found = parse_initrd(data, name="initrd")
    assert [(entry.name, entry.size) for entry in found.files] == expected
    assert [segment.codec for segment in found.segments] == codecs
    assert found.complete


def test_two_archives_in_one_compressed_segment_are_both_seen() -> None:
    inner = make.cpio([("a", b"1")]) + bytes(512) + make.cpio([("b", b"22")])
    found = parse_initrd(make.COMPRESS["gzip"](inner), name="initrd")
    assert [entry.name for entry in found.files] == ["a", "b"]


def test_segments_cover_the_file_and_garbage_at_the_end_is_tolerated() -> None:
    microcode = make.cpio([("kernel/x86/microcode/AuthenticAMD.bin", bytes(700))])
    main = make.COMPRESS["zstd"](make.cpio([("init", b"x")]))
    data = microcode + bytes(512) + main + b"\x01garbage"
    found = parse_initrd(data, name="initrd")
    assert [segment.codec for segment in found.segments] == ["cpio", "zstd", "unknown"]
    assert found.complete
    assert found.segments[0].size == len(microcode)
    assert found.segments[1].offset == len(microcode) + 512
    assert found.segments[1].size == len(main)


@pytest.mark.parametrize("suffix", ["ko", "ko.gz", "ko.xz", "ko.zst", "ko.bz2"])
def test_module_names_are_normalised(suffix: str) -> None:
    path = f"usr/lib/modules/6.1/kernel/drivers/block/xen-blkfront.{suffix}"
    found = parse_initrd(make.cpio([(path, b"x"), ("etc/x.ko.txt", b"")]), name="initrd")
    assert found.modules == {"xen_blkfront"}
    for spelling in ("xen-blkfront", "xen_blkfront"):
        assert found.has_driver(spelling).state == "module"


def test_driver_answers_need_proof_of_absence() -> None:
    found = parse_initrd(make.cpio([("init", b"")]), name="initrd")
    assert found.has_driver("xen_blkfront").state == "unknown"
    assert found.has_driver("xen_blkfront", modules_builtin=["kernel/fs/ext4.ko"]).state == (
        "missing"
    )
    builtin = found.has_driver("ext4", modules_builtin=["kernel/fs/ext4/ext4.ko"])
    assert builtin.state == "builtin"
    config = parse_config("CONFIG_EXT4_FS=y\nCONFIG_XEN_BLKDEV_FRONTEND=m\n", name="c")
    assert found.has_driver("ext4", kernel_config=config).state == "builtin"
    assert found.has_driver("xen-blkfront", kernel_config=config).state == "missing"


def test_damaged_main_segment_makes_absence_unknown() -> None:
    microcode = make.cpio([("kernel/x86/microcode/x.bin", b"x")])
    main = make.COMPRESS["xz"](make.cpio([("lib/modules/1/a.ko", bytes(90))] * 50))
    found = parse_initrd(microcode + main[:-40], name="initrd")
    assert not found.complete
    config = parse_config("CONFIG_XEN_BLKDEV_FRONTEND=m\n", name="c")
    assert found.has_driver("xen_blkfront", kernel_config=config).state == "unknown"


@pytest.mark.parametrize(
    ("path", "system"),
    [
        ("conf/initramfs.conf", "initramfs-tools"),
        ("usr/lib/dracut", "dracut"),
        ("lib/debian-installer", "debian-installer"),
        ("nothing/known", None),
    ],
)
def test_init_system_is_recognised(path: str, system: str | None) -> None:
    assert parse_initrd(make.cpio([(path, b"")]), name="i").init_system == system


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(200), bytes(4096), b"hello"])
def test_what_is_no_initrd_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="not an initrd"):
        parse_initrd(data, name="initrd")


def test_too_many_segments_are_refused() -> None:
    one = make.COMPRESS["gzip"](make.cpio([]))
    with pytest.raises(ImageError, match="segments"):
        parse_initrd(one * (MAX_SEGMENTS + 1), name="initrd")


def test_bomb_stops_at_the_limit_and_is_a_problem() -> None:
    bomb = make.COMPRESS["zstd"](make.cpio([("zeros", bytes(40 << 20))]))
    found = parse_initrd(bomb, name="initrd", limit=8 << 20)
    assert "more than" in found.problems[0]


def test_huge_declared_sizes_cost_nothing() -> None:
    archive = bytearray(make.cpio([("a", b""), ("b", b"")], trailer=False))
    archive[54:62] = b"FFFFFFF0"
    found = parse_initrd(bytes(archive), name="initrd")
    assert not found.complete


def test_mutated_initrds_raise_nothing_unforeseen() -> None:
    rng = random.Random(11)
    files = [("init", b"#!/bin/sh\n"), ("lib/modules/1/modules.builtin", b"kernel/a.ko\n" * 9)]
    archive = make.cpio(files)
    seeds = [archive + pack(archive) for pack in make.COMPRESS.values()]
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.choice([0, 0x30, 0x46, 0xFF, rng.randrange(256)])
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            found = parse_initrd(bytes(data), name="initrd", limit=4 << 20)
        except ImagekitError:
            continue
        assert found.has_driver("xen_blkfront").state != "module"


@given(st.sampled_from([b"070701", b"\x1f\x8b", b"\x02\x21\x4c\x18"]), st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_after_a_magic_raise_nothing_unforeseen(magic: bytes, tail: bytes) -> None:
    data = magic + tail
    try:
        found = parse_initrd(data, name="initrd")
    except ImageError as error:
        assert error.where == "initrd"
    else:
        assert sum(segment.size for segment in found.segments) <= len(data)


def test_lz4_blocks_without_end_are_bounded() -> None:
    data = b"\x02\x21\x4c\x18" + struct.pack("<IB", 1, 0) * 5000
    found = parse_initrd(data, name="initrd")
    assert not found.complete
