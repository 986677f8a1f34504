"""Kernel containers, codecs and hostile kernel files."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import kernel_maker as make

from imagekit.errors import ImageError, ImagekitError
from imagekit.kernel.capability import judge
from imagekit.kernel.codecs import decompress
from imagekit.kernel.image import read_kernel

PV_NOTES = make.note(make.ENTRY, make.number(0xFFFFFFFF81000000)) + make.note(
    make.XEN_VERSION, b"xen-3.0\0"
)


@pytest.mark.parametrize("codec", [*make.COMPRESS, None])
@pytest.mark.parametrize("bits", [32, 64])
def test_every_codec_gives_back_the_elf_that_was_packed(codec: str | None, bits: int) -> None:
    payload = make.elf(PV_NOTES, bits=bits, blob=bytes(range(256)) * 40)
    image = read_kernel(make.bzimage(payload, codec, wide=bits == 64), name="k")
    assert image.payload == payload
    assert image.compression == codec
    assert image.container == "bzImage"
    assert image.release == "6.1.0-test"
    assert image.arch == ("x86_64" if bits == 64 else "i386")


@given(
    st.binary(max_size=3000),
    st.sampled_from(sorted(make.COMPRESS)),
    st.integers(1, 20),
    st.integers(0x0208, 0x020F),
)
@settings(max_examples=60, deadline=None)
def test_payload_is_found_whatever_the_setup_size(
    blob: bytes, codec: str, sectors: int, protocol: int
) -> None:
    payload = make.elf(PV_NOTES, blob=blob)
    data = make.bzimage(payload, codec, setup_sectors=max(sectors, 2), protocol=protocol)
    assert read_kernel(data, name="k").payload == payload


def test_gzipped_and_plain_elf_are_kernels_too() -> None:
    payload = make.elf(PV_NOTES, blob=b"Linux version 2.6.18-8.el5xen (mock) #1\0")
    for data, codec in ((payload, None), (make.COMPRESS["gzip"](payload), "gzip")):
        image = read_kernel(data, name="vmlinuz")
        assert (image.container, image.compression) == ("ELF", codec)
        assert image.release == "2.6.18-8.el5xen"
        assert image.payload == payload


def test_boot_protocol_without_payload_fields_is_recorded() -> None:
    image = read_kernel(make.bzimage(make.elf(), protocol=0x0207), name="k")
    assert image.payload is None
    assert image.payload_error is not None
    assert "2.07" in image.payload_error
    assert judge(image).dom0_loader.can_unpack is False


def test_damaged_payload_is_recorded_and_release_is_still_known() -> None:
    data = bytearray(make.bzimage(make.elf(PV_NOTES, blob=bytes(5000)), "xz"))
    data[-90] ^= 0xFF
    image = read_kernel(bytes(data), name="k")
    assert image.payload is None
    assert image.payload_error is not None
    assert (image.release, image.compression) == ("6.1.0-test", "xz")


def test_a_missing_liblzo2_is_recorded_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagekit.kernel.lzo._LZO", None)
    stored = b"\x89LZO\0\r\n\x1a\n" + struct.pack(">HHHBBIIIIB", 0x1030, 0, 0, 3, 1, 0, 0, 0, 0, 0)
    stored += bytes(4) + struct.pack(">II", 4, 3) + b"abc" + bytes(4)
    image = read_kernel(make.bzimage(b"", "lzo", compress=lambda _: stored), name="k")
    assert image.compression == "lzo"
    assert image.payload_error is not None
    assert "apt-get install liblzo2-2" in image.payload_error


@pytest.mark.parametrize("codec", sorted(make.COMPRESS))
def test_bombs_stop_at_the_limit(codec: str) -> None:
    packed = make.COMPRESS[codec](bytes(24 << 20))
    with pytest.raises(ImageError, match="more than 1 MiB"):
        decompress(packed, codec, where="k", limit=1 << 20)  # type: ignore[arg-type]


def test_lzo_bomb_is_refused_by_its_declared_sizes() -> None:
    head = b"\x89LZO\0\r\n\x1a\n" + struct.pack(">HHHBBIIIIB", 0x1030, 0, 0, 3, 1, 0, 0, 0, 0, 0)
    blocks = struct.pack(">II", 64 << 20, 1) + b"x"
    with pytest.raises(ImageError, match="more than 512 MiB"):
        decompress(head + bytes(4) + blocks * 20 + bytes(4), "lzo", where="k")


def test_trailing_bytes_do_not_belong_to_the_stream() -> None:
    for codec, packer in make.COMPRESS.items():
        if codec != "lz4":
            packed = packer(b"hello") + b"\x07" * 500
            assert decompress(packed, codec, where="k") == b"hello"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"MZ\0\0zimg" + bytes(600), "zboot"),
        (bytes(0x38) + b"ARM\x64" + bytes(600), "arm64"),
        (b"MZ" + bytes(200) + b".linux\0\0" + bytes(600), "unified kernel image"),
        (b"#!/bin/sh\n", "neither"),
    ],
)
def test_other_files_are_named_in_the_error(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_kernel(data, name="k")


def test_mutated_and_truncated_kernels_raise_nothing_unforeseen() -> None:
    rng = random.Random(7)
    payload = make.elf(PV_NOTES, blob=bytes(400), xen_guest=b"XEN_VER=xen-3.0\0")
    seeds = [make.bzimage(payload, codec) for codec in make.COMPRESS]
    seeds += [payload, make.elf(PV_NOTES, bits=32, note_in_section=True)]
    survived = 0
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(min(len(data), rng.choice([64, 0x260, 1 << 20])))] = rng.choice(
                [0, 1, 0x7F, 0xFF, rng.randrange(256)]
            )
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            judge(read_kernel(bytes(data), name="k", limit=8 << 20)).to_json()
            survived += 1
        except ImagekitError:
            continue
    assert survived > 100


@given(st.binary(max_size=800))
@settings(max_examples=200, deadline=None)
def test_arbitrary_elf_bodies_raise_nothing_unforeseen(tail: bytes) -> None:
    for start in (b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01"):
        try:
            judge(read_kernel(start + tail, name="k"))
        except ImagekitError as error:
            assert error.where == "k"
