"""Real kernels and initrds of this host, judged beside other people's programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from oracles import kernel_maker as make

from imagekit.errors import ImagekitError
from imagekit.kernel import xen_notes
from imagekit.kernel.capability import examine, modes
from imagekit.kernel.image import load_kernel, read_kernel
from imagekit.kernel.initrd import parse_initrd, read_initrd

pytestmark = pytest.mark.real

KERNELS = sorted(Path("/boot").glob("vmlinuz-*"))
DEBIAN_AMD64 = [path for path in KERNELS if path.name.endswith("-amd64")]
INITRDS = sorted(Path("/boot").glob("initrd.img-*"))
READNOTES = next(iter(sorted(Path("/usr/lib").glob("xen-*/bin/readnotes"))), None)
ELF_BINARIES = [
    *sorted(Path("/usr/lib/grub-xen").glob("grub-*.bin")),
    *sorted(Path("/usr/lib").glob("xen-*/boot/xen-shim")),
]


def run(*argv: str, data: bytes | None = None) -> bytes:
    return subprocess.run(
        argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=120
    ).stdout


def need(tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is missing (package {package})")


@pytest.mark.parametrize("kernel", DEBIAN_AMD64 or [None], ids=str)
def test_debian_amd64_kernel_boots_in_every_mode(kernel: Path | None) -> None:
    if kernel is None:
        pytest.skip("no Debian kernel in /boot (package linux-image-amd64)")
    release = kernel.name.removeprefix("vmlinuz-")
    config, initrd = Path(f"/boot/config-{release}"), Path(f"/boot/initrd.img-{release}")
    for found in (
        examine(kernel),
        examine(kernel, config=config) if config.exists() else examine(kernel),
        examine(kernel, initrd=initrd) if initrd.exists() else examine(kernel),
    ):
        assert (found.pv.capable, found.pvh.capable, found.hvm.capable) == (True, True, True)
        assert found.pvhvm_drivers is True
        assert (found.arch, found.release) == ("x86_64", release)
        assert all(verdict.capable for verdict in modes(found).values())
        assert not any("contradicts" in line for line in found.pv.evidence + found.pvh.evidence)


@pytest.mark.parametrize("path", [*KERNELS, *ELF_BINARIES] or [None], ids=str)
def test_notes_are_those_that_readelf_sees(path: Path | None, tmp_path: Path) -> None:
    if path is None:
        pytest.skip("no kernel in /boot (package linux-image-amd64)")
    need("readelf", "binutils")
    image = load_kernel(path)
    assert image.payload is not None
    assert image.elf is not None
    (tmp_path / "vmlinux").write_bytes(image.payload)
    text = run("readelf", "-nW", str(tmp_path / "vmlinux")).decode()
    theirs = []
    for line in text.splitlines():
        found = re.match(
            r"\s+Xen\s+0x([0-9a-f]+)\s+(?:Unknown note type: \((0x[0-9a-f]+)\))?", line
        )
        if found:
            theirs.append((int(found.group(2), 16) if found.group(2) else None, found.group(1)))
    mine = [note for note in image.elf.notes if note.owner == "Xen"]
    assert [len(note.desc) for note in mine] == [int(size, 16) for _, size in theirs]
    for note, (kind, _) in zip(mine, theirs, strict=True):
        assert kind in (note.type, None)
    assert any(kind is not None for kind, _ in theirs)


@pytest.mark.skipif(READNOTES is None, reason="readnotes is missing (package xen-utils-4.17)")
@pytest.mark.parametrize("path", [*KERNELS, *ELF_BINARIES] or [None], ids=str)
def test_numbers_are_those_that_xens_readnotes_prints(path: Path | None, tmp_path: Path) -> None:
    if path is None:
        pytest.skip("no kernel in /boot (package linux-image-amd64)")
    image = load_kernel(path)
    assert image.payload is not None
    assert image.elf is not None
    (tmp_path / "vmlinux").write_bytes(image.payload)
    text = run(str(READNOTES), str(tmp_path / "vmlinux")).decode()
    theirs = {
        name: int(value, 16)
        for name, value in re.findall(r"^(\w+): +(?:0x)?([0-9a-f]+) \(", text, re.M)
    }
    mine = xen_notes.read(image.elf)
    shared = {name for name in theirs if name in mine.numbers}
    for name in shared:
        assert mine.numbers[name] == theirs[name], name
    assert shared


@pytest.mark.parametrize("path", INITRDS or [None], ids=str)
def test_initrd_has_the_files_and_modules_that_lsinitramfs_lists(path: Path | None) -> None:
    if path is None:
        pytest.skip("no initrd in /boot (package linux-image-amd64)")
    need("lsinitramfs", "initramfs-tools-core")
    theirs = set(run("lsinitramfs", str(path)).decode().splitlines()) - {"."}
    found = read_initrd(path)
    assert {entry.name for entry in found.files} - {"."} == theirs
    modules = {
        re.sub(r"\.ko(\..*)?$", "", name.rsplit("/", 1)[-1]).replace("-", "_")
        for name in theirs
        if re.search(r"\.ko(\.\w+)?$", name)
    }
    assert found.modules == modules
    assert found.complete
    assert found.init_system == "initramfs-tools"


@pytest.mark.parametrize("codec", [*sorted(make.COMPRESS), "lzo"])
def test_archives_of_bsdtar_are_read_in_every_codec(codec: str, tmp_path: Path) -> None:
    need("bsdtar", "libarchive-tools")
    if codec == "lzo":
        need("lzop", "lzop")
    tree = tmp_path / "tree" / "lib" / "modules" / "6.1"
    tree.mkdir(parents=True)
    for number in range(30):
        (tree / f"mod-{number}.ko.xz").write_bytes(bytes([number]) * number * 17)
    (tree / "link").symlink_to("mod-1.ko.xz")
    archive = run("bsdtar", "-cf", "-", "--format=newc", "-C", str(tmp_path / "tree"), ".")
    packed = make.lzop(archive) if codec == "lzo" else make.COMPRESS[codec](archive)
    found = parse_initrd(packed + bytes(8), name="initrd")
    assert found.modules == {f"mod_{number}" for number in range(30)}
    sizes = {entry.name.rsplit("/", 1)[-1]: entry.size for entry in found.files}
    assert all(sizes[f"mod-{number}.ko.xz"] == number * 17 for number in range(30))


@pytest.mark.parametrize(
    ("tool", "package", "argv"),
    [
        ("lz4", "lz4", ["-l", "-9", "-c"]),
        ("zstd", "zstd", ["-19", "-c"]),
        ("zstd", "zstd", ["--ultra", "-22", "--long=27", "-c"]),
        ("xz", "xz-utils", ["--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"]),
        ("xz", "xz-utils", ["--format=lzma", "-9", "-c"]),
        ("gzip", "gzip", ["-n", "-9", "-c"]),
        ("bzip2", "bzip2", ["-9", "-c"]),
        ("lzop", "lzop", ["-9", "-c"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_payloads_packed_by_the_programs_of_the_kernel_build(
    tool: str, package: str, argv: list[str]
) -> None:
    need(tool, package)
    blob = Path("/bin/sh").read_bytes() * 12
    payload = make.elf(make.note(1, make.number(1)), blob=blob)
    data = make.bzimage(payload, tool, compress=lambda data: run(tool, *argv, data=data))
    image = read_kernel(data, name="k")
    assert image.payload_error is None
    assert image.payload == payload


@pytest.mark.parametrize("path", DEBIAN_AMD64[:1] or [None], ids=str)
def test_truncated_real_kernel_is_judged_or_refused(path: Path | None) -> None:
    if path is None:
        pytest.skip("no Debian kernel in /boot (package linux-image-amd64)")
    data = path.read_bytes()
    for size in (0, 0x201, 0x210, 0x24A, 0x1000, len(data) // 2, len(data) * 9 // 10):
        try:
            image = read_kernel(data[:size], name="k")
        except ImagekitError:
            continue
        assert image.payload is None
        assert image.payload_error
