"""Disks are written for their owner alone, whatever the umask, the source's mode and the way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.domain_facts import facts_for
from support.domains import machine

from imagekit.disk.convert import convert
from imagekit.disk.extents import copy_sparse
from imagekit.disk.vhd import write_vhd
from imagekit.domain import model
from imagekit.host.outfile import replacing
from imagekit.toolstacks.output import write_files
from imagekit.toolstacks.tarball import tarball_file
from imagekit.toolstacks.xapi.xva import XvaEmitter

FORMATS = ("raw", "qcow2", "vhd")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def open_umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def private(path: Path) -> bool:
    return mode_of(path) & 0o077 == 0 and path.stat().st_size > 0


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(4096) + bytes((2 << 20) - 4096))
    made = {"raw": raw}
    for name in ("qcow2", "vhd"):
        made[name] = tmp_path / f"disk.{name}"
        convert(raw, made[name], source_format="raw", target_format=name)
    return made


@pytest.mark.parametrize("source_mode", [0o600, 0o644, 0o666])
@pytest.mark.parametrize("source", FORMATS)
def test_what_is_converted_is_the_owners_alone(
    tmp_path: Path, images: dict[str, Path], source: str, source_mode: int
) -> None:
    images[source].chmod(source_mode)
    before = os.umask(0)
    try:
        for target in FORMATS:
            out = tmp_path / f"out.{target}"
            convert(images[source], out, source_format=source, target_format=target)
            assert private(out)
            out.chmod(0o644)
            convert(images[source], out, source_format=source, target_format=target, overwrite=True)
            assert private(out)
    finally:
        os.umask(before)


def test_a_disk_is_private_while_it_is_written(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with replacing(tmp_path / "disk") as part:
            assert mode_of(part) == 0o600
            part.write_bytes(b"secret")
        assert private(tmp_path / "disk")
        with replacing(tmp_path / "text", mode=0o666) as part:
            part.write_bytes(b"public")
        assert mode_of(tmp_path / "text") == 0o666
    finally:
        os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_copies_and_vhds_are_private(tmp_path: Path) -> None:
    raw = tmp_path / "a.raw"
    raw.touch(0o600)
    raw.chmod(0o644)
    raw.write_bytes(bytes(1 << 20) + b"x" * (1 << 20))
    copy_sparse(raw, tmp_path / "b.raw")
    write_vhd(raw, tmp_path / "c.vhd", subformat="fixed")
    assert private(tmp_path / "b.raw")
    assert private(tmp_path / "c.vhd")


@pytest.mark.parametrize("force", [False, True])
def test_xvas_and_tarballs_are_private(
    tmp_path: Path, images: dict[str, Path], *, force: bool
) -> None:
    domain = machine(
        boot=model.Pygrub(), mode="pv", disks=(model.Disk(str(images["raw"]), vdev="xvda"),)
    )
    facts = facts_for(domain)
    files = XvaEmitter().files(domain, facts)
    files |= tarball_file(domain, facts, "vdi_local_dev")
    if force:
        for name in files:
            (tmp_path / name).write_bytes(b"old")
    before = os.umask(0)
    try:
        written = write_files(files, tmp_path, force=force)
    finally:
        os.umask(before)
    assert len(written) == 2
    assert all(map(private, written))
