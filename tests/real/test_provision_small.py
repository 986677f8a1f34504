"""Provisioning without an appliance: chains, volumes, starting, links; on a disk of 16 MiB."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles import libvhdi
from oracles.small_build import SIZE, small_build

from imagekit.disk import reading, volume
from imagekit.errors import CapabilityError, ExistsError, HostError, SpecError, ToolError
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace
from imagekit.provision.golden import open_golden, sweep
from imagekit.provision.journal import journal, recorded
from imagekit.provision.provision import Outcome, ProvisionOptions, destroy, provision
from imagekit.provision.request import make_request

pytestmark = pytest.mark.real
Make = Callable[..., Outcome]
Fakes = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes one guest with a seed disk; options and wishes by keyword."""
    monkeypatch.setenv("IMAGEKIT_STATE", str(tmp_path / "state"))
    build = small_build(tmp_path / "build")

    def run(name: str, wish: dict[str, object] | None = None, **options: object) -> Outcome:
        formats = ("vhd",) if options.get("clone") == "chain" else ("raw",)
        values = {"directory": tmp_path / "guests", "seed": True, **options}
        request = make_request({"name": name, **(wish or {})})
        with workspace(Events(), tmp_path / "work") as space:
            golden = open_golden(build, formats)  # type: ignore[arg-type]
            return provision([request], golden, ProvisionOptions(**values), workspace=space)[0]  # type: ignore[arg-type]

    return run


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Puts programs before the real ones that write their calls down."""

    def install(**scripts: str) -> Callable[[], list[str]]:
        place, log = tmp_path / "bin", tmp_path / "calls"
        place.mkdir(exist_ok=True)
        for name, script in scripts.items():
            text = f'#!/bin/sh\necho "{name} $*" >> {log}\n{script}\n'
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        return lambda: log.read_text().splitlines() if log.exists() else []

    return install


def test_a_chain_is_a_small_vhd_that_blktap_is_told_to_open(make: Make, tmp_path: Path) -> None:
    made = make("linked", toolstack="xm", clone="chain")
    assert made.error is None
    child = Path(made.files["disk"])
    (parent,) = (tmp_path / "guests/.golden").glob("*/disk.vhd")
    assert sorted(p.name for p in child.parent.iterdir()) == [
        "linked-seed.iso",
        "linked.cfg",
        "linked.vhd",
    ]
    reading.unpack_chain([child, parent], tmp_path / "read.raw")
    content = (tmp_path / "build/small.raw").read_bytes()
    assert (tmp_path / "read.raw").read_bytes() == content
    if libvhdi.available():
        same = libvhdi.read_chain([child, parent]) == content
        assert same
    assert child.stat().st_blocks * 512 < 64 << 10
    assert f"tap2:tapdisk:vhd:{child}" in Path(made.files["config"]).read_text()
    destroy("linked")
    assert list((tmp_path / "guests").iterdir()) == []


def test_a_chain_is_refused_where_nobody_could_read_it(make: Make, tmp_path: Path) -> None:
    for toolstack in ("xl", "libvirt"):
        refused = make("linked", toolstack=toolstack, clone="chain").error
        assert isinstance(refused, CapabilityError)
        assert "overlay" in str(refused)
    grown = make("linked", {"size": "32MiB"}, toolstack="xm", clone="chain").error
    assert isinstance(grown, SpecError)
    assert recorded() == {}
    assert not (tmp_path / "guests").exists()


@pytest.mark.parametrize("clone", ["overlay", "copy"])
def test_a_grown_disk_has_a_grown_table(make: Make, clone: str, tmp_path: Path) -> None:
    made = make("grown", {"size": "40MiB"}, clone=clone)
    raw = tmp_path / "grown.raw"
    image_format = "qcow2" if clone == "overlay" else "raw"
    argv: list[str | Path] = [
        "qemu-img",
        "convert",
        "-f",
        image_format,
        "-O",
        "raw",
        made.files["disk"],
        raw,
    ]
    subprocess.run(argv, check=True)
    check = subprocess.run(["/sbin/sfdisk", "-V", raw], capture_output=True, text=True)
    assert "No errors detected" in check.stdout, check.stdout + check.stderr
    table = json.loads(subprocess.run(["/sbin/sfdisk", "-J", raw], capture_output=True).stdout)
    last = table["partitiontable"]["partitions"][-1]
    assert last["start"] + last["size"] == (40 << 11) - 2048
    assert (
        raw.read_bytes()[3 << 20 : 15 << 20]
        == ((tmp_path / "build/small.raw").read_bytes()[3 << 20 : 15 << 20])
    )


LISTED = 'case "$1" in vm-list) echo "UUID ID name"; echo "{uuid} 3 web01";; esac'


def test_a_started_guest_is_created_linked_and_ended_again(
    make: Make, fakes: Fakes, tmp_path: Path
) -> None:
    uuid = make_request({"name": "web01"}).domain_uuid
    calls = fakes(xl=LISTED.format(uuid=uuid))
    auto = tmp_path / "auto"
    auto.mkdir()
    made = make("web01", start=True, autostart=auto)
    assert made.error is None
    config = made.files["config"]
    assert calls() == [f"xl create -q {config}"]
    assert str((auto / "web01.cfg").readlink()) == config
    destroy("web01")
    assert calls()[1:] == ["xl vm-list", "xl destroy web01"]
    assert list(auto.iterdir()) == []


def test_a_domain_of_the_name_that_is_not_ours_goes_on_running(make: Make, fakes: Fakes) -> None:
    calls = fakes(xl=LISTED.format(uuid="99999999-0000-0000-0000-000000000000"))
    assert make("web01", start=True).error is None
    destroy("web01")
    assert calls()[1:] == ["xl vm-list"]


def test_a_guest_that_does_not_start_leaves_nothing(
    make: Make, fakes: Fakes, tmp_path: Path
) -> None:
    fakes(xl='[ "$1" = create ] && { echo "no memory" >&2; exit 3; }; exit 0')
    error = make("web01", start=True).error
    assert isinstance(error, ToolError)
    assert "no memory" in str(error)
    assert recorded() == {}
    assert list((tmp_path / "guests").iterdir()) == []


def test_a_full_file_system_is_the_failure_of_one_guest(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/web01")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        error = make("web01").error
    assert isinstance(error, HostError)
    assert str(error) == "/srv/web01: No space left on device"
    assert recorded() == {}
    assert list((tmp_path / "guests").iterdir()) == []
    assert make("web01").error is None


def test_libvirt_guests_are_defined_and_started_by_virsh_and_forgotten_by_it(
    make: Make, fakes: Fakes
) -> None:
    uuid = make_request({"name": "web01"}).domain_uuid
    calls = fakes(virsh=f'[ "$3" = domname ] && echo web01; echo {uuid} >/dev/null; exit 0')
    made = make("web01", toolstack="libvirt", start=True)
    assert made.error is None
    config = made.files["config"]
    assert config.endswith(".xml")
    start = ["define " + config, "start web01"]
    assert calls() == [f"virsh -c xen:/// {words}" for words in start]
    destroy("web01")
    after = [line.removeprefix("virsh -c xen:/// ") for line in calls()[2:]]
    assert after == [f"domname {uuid}", f"destroy {uuid}", f"undefine {uuid}"]


def test_a_volume_is_noted_before_lvm_is_asked_to_make_it(fakes: Fakes) -> None:
    calls = fakes(
        vgs="echo '  vg0:1073741824:4194304'",
        lvs="echo Failed to find logical volume >&2; exit 5",
        lvcreate="exit 0",
    )
    noted: list[tuple[str, str, int]] = []

    def note(name: str, tag: str) -> None:
        noted.append((name, tag, len(calls())))

    with pytest.raises(HostError, match="made no /dev/vg0/web01-disk"):
        volume.make_volume("vg0", "web01", SIZE, None, note)
    name, tag, before = noted[0]
    create = calls()[-1].split()
    assert (name, create[0], before) == ("web01-disk", "lvcreate", len(calls()) - 1)
    assert create[create.index("--addtag") + 1] == tag
    assert create[create.index("--size") + 1] == f"{SIZE}b"
    assert create[-3:] == ["--name", "web01-disk", "vg0"]


def test_a_volume_without_our_tag_is_neither_taken_nor_removed(fakes: Fakes) -> None:
    calls = fakes(vgs="echo '  vg0:1073741824:4194304'", lvs="echo '  other'", lvremove="exit 0")
    with pytest.raises(ExistsError, match="logical volume already"):
        volume.check_room("vg0", "web01", SIZE)
    volume.remove_volume("vg0", "web01-disk", "imagekit-1")
    assert not any(line.startswith("lvremove") for line in calls())
    fakes(lvs="echo '  other,imagekit-1'")
    volume.remove_volume("vg0", "web01-disk", "imagekit-1")
    assert calls()[-1].split()[-1] == "vg0/web01-disk"


def test_what_cannot_be_undone_now_is_tried_again_and_stops_nobody_else(
    make: Make, fakes: Fakes
) -> None:
    fakes(lvs="echo imagekit-1", lvremove="echo 'in use' >&2; exit 5")
    with journal("stuck") as found:
        found.add("volume", vg="vg0", name="stuck-disk", tag="imagekit-1")
    assert sweep() == []
    assert make("other").error is None
    assert isinstance(make("stuck").error, ToolError)
    # Nor is a volume forgotten because LVM could not be asked.
    fakes(lvs="echo 'no lock' >&2; exit 5", lvremove="exit 0")
    assert sweep() == []
    fakes(lvs="echo imagekit-1")
    assert sweep() == ["stuck"]


@pytest.mark.parametrize("vg", ["", "-x", "a/b", "..", "a b", "x" * 128, "a;b"])
def test_a_bad_volume_group_is_refused(vg: str) -> None:
    with pytest.raises(SpecError, match="vg"):
        make_request({"name": "a", "vg": vg})


@pytest.mark.parametrize("name", ["snapshot1", "pvmove", "x_mimage_0", "a_rmeta"])
def test_names_that_lvm_keeps_for_itself_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="no logical volume named"):
        volume.volume_name(name)


def test_a_guest_lies_on_a_device_or_on_a_volume(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="two places"):
        make_request({"name": "a", "vg": "vg0", "device": "/dev/x"})
