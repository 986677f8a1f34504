"""What the proof reads and writes, as other people's programs see it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from oracles import xl_reader

from imagekit.proof import initrd
from imagekit.proof.xlcfg import parse_config

pytestmark = pytest.mark.real

DISKS = [
    "/a,raw,xvda,rw",
    "/a b.img,,xvda",
    "format=qcow2, vdev=xvdb, access=ro, target=/srv/x,y=z",
    "phy:/dev/vg0/a,xvda,w",
    "tap2:tapdisk:aio:/x,xvda,w",
    "tap:qcow2:/x,xvdc,r",
    "file:/a.iso,hdc:cdrom,r",
    "/srv/a.vhd,vhd,xvda1,rw",
    "vdev=hdc, access=ro, devtype=cdrom, target=/cd.iso",
    ",hdc:cdrom,r",
]


@pytest.mark.skipif(xl_reader.missing() is not None, reason=str(xl_reader.missing()))
@pytest.mark.parametrize("item", DISKS)
def test_a_disk_is_what_the_real_xl_takes_it_for(item: str) -> None:
    text = f'name = "g"\ntype = "hvm"\ndisk = [ "{item}" ]\n'
    theirs = xl_reader.read(text).config["disks"][0]
    (ours,) = parse_config(text.encode(), Path("/g.cfg")).disks
    assert ours.path == (theirs.get("pdev_path") or None)
    assert ours.vdev == theirs["vdev"]
    assert ours.format == theirs["format"]
    assert ours.readonly == (not theirs.get("readwrite"))
    assert ours.cdrom == bool(theirs.get("is_cdrom"))


def test_cpio_unpacks_the_labs_initrd(tmp_path: Path) -> None:
    data = initrd.newc(
        [
            initrd.directory("bin"),
            initrd.file("bin/x", b"#!/bin/sh\n" * 3, 0o755),
            initrd.file("empty", b""),
        ]
    )
    subprocess.run(["cpio", "-id", "--quiet"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/x").read_bytes() == b"#!/bin/sh\n" * 3
    assert stat.S_IMODE((tmp_path / "bin/x").stat().st_mode) == 0o755
    assert (tmp_path / "empty").read_bytes() == b""
