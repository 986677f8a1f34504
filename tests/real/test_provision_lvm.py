"""Growing clones whose root lies on a logical volume, and what one says when it has booted."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import Build, Run

pytestmark = [pytest.mark.real, pytest.mark.slow]

# As in test_layouts.py, so that both share what is stored.
SPEC = """\
name: db01
os: {suite: bookworm}
install: {method: debootstrap, packages: [xfsprogs, btrfs-progs, lvm2]}
disk: {size: 3GiB, swap: 64MiB}
"""


def boot(build: Build, disk: Path) -> str:
    """Boot the overlay ``disk``; what its console says, which ends with df(1) of its root."""
    facts = build.manifest["facts"]
    words = f'{facts["cmdline"]} console=ttyS0 systemd.run="/bin/df -B1M --output=size,source /"'
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot"]
    argv += ["-nic", "none", "-drive", f"file={disk},format=qcow2,if=virtio,snapshot=on"]
    argv += ["-kernel", str(build.path / facts["kernel"])]
    argv += ["-initrd", str(build.path / facts["initrd"]), "-append", words]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=600, check=False
    )
    return done.stdout.decode("utf-8", "replace").replace("\r", "")


def test_a_root_on_lvm_grows_with_partition_and_volume_and_boots(
    build: Callable[..., Build], imagekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_STATE", str(tmp_path / "state"))
    spec, guests = tmp_path / "db01.yaml", tmp_path / "guests.yaml"
    spec.write_text(SPEC)
    made = build(spec, "--set", "disk.lvm=true")
    # Clones hold volume groups of one name and one UUID; the appliance must not mix them up.
    guests.write_text("guests:\n- {name: small1}\n- {name: large1, size: 7GiB}\n- {name: small2}\n")
    imagekit("provision", "--from", made.path, "--guests", guests, "--dir", tmp_path / "d")
    for name in ("small1", "large1", "small2"):
        content = (tmp_path / f"d/{name}/{name}.qcow2").read_bytes()
        found = set(re.findall(rb"127\.0\.1\.1\t(small1|large1|small2)\n", content))
        assert found == {name.encode()}
    console = boot(made, tmp_path / "d/large1/large1.qcow2")
    size = re.search(r"(\d{4}) +/dev/mapper/\S+", console)
    assert size is not None, console[-3000:]
    assert int(size[1]) > 6000
    assert "large1" in console
    for name in ("small1", "large1", "small2"):
        imagekit("destroy", name, "--yes")
    assert list((tmp_path / "d").iterdir()) == []
