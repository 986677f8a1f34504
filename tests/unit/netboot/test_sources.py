"""Kernels out of ISOs: files of the ISO, and nothing that a link in it leads to."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pycdlib
import pytest

from imagekit.errors import ImagekitError, SpecError, VerificationError
from imagekit.netboot import sources

KERNEL, INITRD = b"a kernel" * 100, b"an initrd" * 100


@pytest.fixture
def iso(tmp_path: Path) -> Path:
    made = pycdlib.PyCdlib()
    made.new(rock_ridge="1.09")
    made.add_directory("/INSTALL", rr_name="install")
    for name, data in (("linux", KERNEL), ("initrd", INITRD)):
        path = f"/INSTALL/{name.upper()}.;1"
        made.add_fp(io.BytesIO(data), len(data), path, rr_name=name)
    for number, (name, target) in enumerate(
        {
            "absolute": "/etc/hostname",
            "upward": "../../../../../../../../etc/hostname",
            "same": "linux",
            "null": "/dev/zero",
            "folder": "/etc",
        }.items()
    ):
        made.add_symlink(f"/INSTALL/L{number}.;1", rr_symlink_name=name, rr_path=target)
    made.write(str(tmp_path / "x.iso"))
    made.close()
    return tmp_path / "x.iso"


def taken(iso: Path, kernel: str, work: Path, sha256: str = "") -> sources.Installer:
    work.mkdir(exist_ok=True)
    digest = sha256 or hashlib.sha256(iso.read_bytes()).hexdigest()
    return sources.from_iso(iso, kernel, "/install/initrd", work, sha256=digest)


def test_kernel_and_initrd_are_taken_out(tmp_path: Path, iso: Path) -> None:
    found = taken(iso, "/install/linux", tmp_path / "work")
    assert (found.kernel.read_bytes(), found.initrd.read_bytes()) == (KERNEL, INITRD)
    assert found.kernel_sha256 == hashlib.sha256(KERNEL).hexdigest()


@pytest.mark.parametrize(
    "name", ["absolute", "upward", "same", "null", "folder", "folder/hostname", "absent", "."]
)
def test_what_is_no_file_of_the_iso_is_refused(tmp_path: Path, iso: Path, name: str) -> None:
    with pytest.raises(ImagekitError) as caught:
        taken(iso, f"/install/{name}", tmp_path / "work")
    assert str(iso) in str(caught.value)
    assert list((tmp_path / "work").iterdir()) == []


def test_one_file_is_not_both(tmp_path: Path, iso: Path) -> None:
    with pytest.raises(SpecError):
        taken(iso, "/install/initrd", tmp_path / "work")


def test_an_iso_that_is_swapped_after_its_digest_was_checked_is_not_read(
    tmp_path: Path, iso: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.iso"
    other.write_bytes(iso.read_bytes().replace(KERNEL, b"X" * len(KERNEL)))
    real = sources._checked

    def checked(path: Path, sha256: str) -> None:
        real(path, sha256)
        other.replace(iso)

    monkeypatch.setattr(sources, "_checked", checked)
    assert taken(iso, "/install/linux", tmp_path / "work").kernel.read_bytes() == KERNEL
    assert b"X" * len(KERNEL) in iso.read_bytes()


def test_another_digest_is_refused(tmp_path: Path, iso: Path) -> None:
    with pytest.raises(VerificationError, match=r"x\.iso"):
        taken(iso, "/install/linux", tmp_path / "work", "1" * 64)
