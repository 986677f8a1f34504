"""Formats are never guessed for raw, and qcow2 headers that reach elsewhere are refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekit.disk import image_info, qcow2
from imagekit.disk.convert import convert, format_of_name
from imagekit.errors import ExistsError, HostError, ImageError, SpecError

MIB = 1 << 20
CLUSTER = 65536


def qcow2_file(path: Path, extensions: bytes = bytes(8), **change: int) -> Path:
    """A version 3 header by docs/interop/qcow2.txt, with its tables in a file of 4 clusters."""
    fields = {
        "version": 3,
        "backing": 0,
        "backing_length": 0,
        "bits": 16,
        "size": 64 * MIB,
        "crypt": 0,
        "l1_entries": 1,
        "l1": 3 * CLUSTER,
        "table": CLUSTER,
        "table_clusters": 1,
        "snapshots": 0,
        "snapshot_table": 0,
        "incompatible": 0,
        "compatible": 0,
        "autoclear": 0,
        "refcount_order": 4,
        "length": 104,
        "compression": 0,
    } | change
    compression = fields.pop("compression")
    header = b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQQQQII", *fields.values())
    if fields["length"] > 104:
        header += bytes([compression]) + bytes(7)
    data = (header + extensions).ljust(4 * CLUSTER, b"\0")
    path.write_bytes(data)
    return path


def test_a_plain_header_is_read(tmp_path: Path) -> None:
    info = image_info.probe(qcow2_file(tmp_path / "a"), "qcow2")
    assert (info.format, info.virtual_size, info.backing_file) == ("qcow2", 64 * MIB, None)
    assert info.details["cluster_size"] == CLUSTER
    zstd = qcow2_file(tmp_path / "b", incompatible=8, length=112, compression=1)
    assert image_info.probe(zstd, "qcow2").details["compression"] == "zstd"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 1}, "unknown version"),
        ({"version": 4}, "unknown version"),
        ({"backing": 200, "backing_length": 11}, "backing file"),
        ({"backing_length": 11}, "backing file"),
        ({"version": 2, "backing": 200}, "backing file"),
        ({"crypt": 1}, "encrypted"),
        ({"crypt": 2}, "encrypted"),
        ({"bits": 8}, "cluster size"),
        ({"bits": 40}, "cluster size"),
        ({"size": 0}, "disk size"),
        ({"size": 1000}, "disk size"),
        ({"size": (1 << 64) - 512}, "disk size"),
        ({"size": 1 << 47}, "disk size"),
        ({"size": 1 << 40}, "does not fit"),
        ({"l1_entries": 0xFFFFFFFF}, "does not fit"),
        ({"l1": 4 * CLUSTER}, "outside"),
        ({"l1": (1 << 64) - CLUSTER}, "outside"),
        ({"l1": 3 * CLUSTER + 8}, "outside"),
        ({"l1": 0}, "outside"),
        ({"table": 9 * CLUSTER}, "outside"),
        ({"table_clusters": 0}, "does not fit"),
        ({"table_clusters": 0xFFFFFFFF}, "does not fit"),
        ({"incompatible": 1}, "not properly closed"),
        ({"incompatible": 2}, "corrupt"),
        ({"incompatible": 4}, "external"),
        ({"incompatible": 1 << 5}, "unknown qcow2 features"),
        ({"incompatible": 1 << 63}, "unknown qcow2 features"),
        ({"incompatible": 8}, "compression"),
        ({"incompatible": 8, "length": 112, "compression": 2}, "compression"),
        ({"length": 103}, "length"),
        ({"length": 0xFFFFFFF8}, "length"),
    ],
)
def test_a_hostile_qcow2_header_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        image_info.probe(qcow2_file(tmp_path / "a", **change), "qcow2")


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (struct.pack(">II", 0x44415441, 11) + b"/etc/passwd", "external data file"),
        (struct.pack(">II", 0x0537BE77, 16) + bytes(16), "encrypted"),
        (struct.pack(">II", 0x12345678, 0xFFFFFFFF), "do not end"),
    ],
)
def test_a_hostile_qcow2_extension_is_refused(tmp_path: Path, extension: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        image_info.probe(qcow2_file(tmp_path / "a", extension), "qcow2")


@settings(max_examples=200, deadline=None)
@given(head=st.binary(max_size=160), size=st.integers(0, 1 << 50))
def test_random_headers_never_escape_as_another_error(head: bytes, size: int) -> None:
    for raw in (head, qcow2.MAGIC + head, qcow2.MAGIC + b"\0\0\0\3" + head):
        with pytest.raises(ImageError):
            qcow2.parse_header(raw, size, "x")


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.integers(0, 120), data=st.binary(min_size=1, max_size=8))
def test_mutated_headers_never_escape_as_another_error(
    tmp_path: Path, place: int, data: bytes
) -> None:
    raw = bytearray(qcow2_file(tmp_path / "a").read_bytes())
    raw[place : place + len(data)] = data
    try:
        header = qcow2.parse_header(bytes(raw[:CLUSTER]), len(raw), "x")
    except ImageError:
        return
    assert 0 < header.size <= qcow2.MAX_SIZE


@pytest.mark.parametrize("length", [0, 3, 4, 71, 72, 103, 104, CLUSTER])
def test_a_truncated_qcow2_is_refused(tmp_path: Path, length: int) -> None:
    path = qcow2_file(tmp_path / "a")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ImageError):
        image_info.probe(path, "qcow2")


@pytest.mark.parametrize("content", [b"", b"x", bytes(MIB), b"\xeb\x63" + bytes(508) + b"\x55\xaa"])
def test_raw_is_never_guessed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(SpecError, match="--from"):
        image_info.detect(tmp_path / "a")


@pytest.mark.parametrize(
    "content",
    [
        b"KDMV" + bytes(600),
        b"COWD" + bytes(600),
        b'# Disk DescriptorFile\nversion=1\nRW 1 FLAT "/etc/passwd" 0\n',
        b"vhdxfile" + bytes(600),
        bytes(64) + b"\x7f\x10\xda\xbe" + bytes(600),
        b"QED\0" + bytes(600),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ImageError, match="is not read here"):
        image_info.detect(tmp_path / "a")


def test_a_header_inside_a_raw_disk_is_only_data(tmp_path: Path) -> None:
    """A guest may write any header into its own disk; said to be raw, it is raw."""
    source = qcow2_file(tmp_path / "a", backing=200, backing_length=11)
    assert image_info.probe(source, "raw").virtual_size == 4 * CLUSTER
    convert(source, tmp_path / "b.raw", source_format="raw", target_format="raw")
    assert (tmp_path / "b.raw").read_bytes() == source.read_bytes()


def test_an_empty_file_is_no_raw_disk(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(ImageError, match="empty"):
        image_info.probe(tmp_path / "a", "raw")


@pytest.mark.parametrize("name", ["vmdk", "vpc", "RAW", "", "json:{}"])
def test_unknown_format_names_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(SpecError, match="raw, qcow2, vhd"):
        image_info.probe(tmp_path / "a", name)


def test_the_target_format_comes_from_the_suffix() -> None:
    names = ("a.raw", "a.img", "a.QCOW2", "a.b.vhd")
    assert [format_of_name(Path(n)) for n in names] == ["raw", "raw", "qcow2", "vhd"]
    for name in ("a", "a.vmdk", ".vhd", "a.vhd.gz"):
        with pytest.raises(SpecError, match="--to"):
            format_of_name(Path(name))


@pytest.mark.parametrize(
    "options",
    [
        {"target_format": "vhd", "compression": "zstd"},
        {"target_format": "raw", "compression": "zlib"},
        {"target_format": "qcow2", "compression": "bzip2"},
        {"target_format": "vhd", "vhd_subformat": "differencing"},
        {"target_format": "raw", "vhd_subformat": "fixed"},
        {"target_format": "vmdk"},
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "a").write_bytes(b"x" * 512)
    with pytest.raises(SpecError):
        convert(tmp_path / "a", tmp_path / "b", source_format="raw", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_disk_too_large_for_vhd_is_refused_before_writing(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate((2040 << 30) + 512)
    with pytest.raises(SpecError, match="2040 GiB"):
        convert(tmp_path / "a", tmp_path / "b", source_format="raw", target_format="vhd")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_too_little_space_is_said_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x" * 9 * MIB)
    (tmp_path / "zeros").write_bytes(bytes(9 * MIB))
    # Only 8 MiB are free: too little for the first, plenty for zeros.
    free = type("statvfs", (), {"f_bavail": 2048, "f_frsize": 4096})
    monkeypatch.setattr("os.statvfs", lambda path: free)
    with pytest.raises(HostError, match="9 MiB are needed and 8 MiB are free"):
        convert(tmp_path / "a", tmp_path / "b.vhd", source_format="raw", target_format="vhd")
    assert not (tmp_path / "b.vhd").exists()
    convert(tmp_path / "zeros", tmp_path / "b.vhd", source_format="raw", target_format="vhd")
    assert image_info.probe(tmp_path / "b.vhd", "vhd").details["data_size"] == 0


def test_the_source_is_never_the_target(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"x" * 512)
    (tmp_path / "link.raw").symlink_to("a.raw")
    for name in ("a.raw", "link.raw"):
        with pytest.raises(SpecError, match="same file"):
            convert(
                tmp_path / "a.raw",
                tmp_path / name,
                source_format="raw",
                target_format="raw",
                overwrite=True,
            )
    with pytest.raises(ExistsError):
        convert(
            qcow2_file(tmp_path / "q"),
            tmp_path / "a.raw",
            source_format="raw",
            target_format="raw",
        )
    assert (tmp_path / "a.raw").read_bytes() == b"x" * 512
