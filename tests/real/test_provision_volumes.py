"""Guests on logical volumes, by real LVM in a machine whose kernel has device-mapper."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from oracles import dm_machine
from oracles.builds import ROOT
from oracles.small_build import MIB, ROOT_BYTES, ROOT_START, small_build

pytestmark = pytest.mark.real

PROGRAM = """
import hashlib, os, signal, subprocess, sys
from pathlib import Path
from imagekit.errors import ImagekitError
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace
from imagekit.provision import disks
from imagekit.provision.golden import open_golden, sweep
from imagekit.provision.provision import ProvisionOptions, destroy, provision
from imagekit.provision.request import make_request

golden = open_golden(Path(sys.argv[1]))

def sh(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

def volumes():
    return sorted(sh("lvs", "--noheadings", "-o", "lv_name", "vg0").split())

def make(name, **more):
    request = make_request({"name": name, "vg": "vg0", **more})
    options = ProvisionOptions(Path("/run/guests"), seed=True)
    with workspace(Events(), Path("/run/work")) as space:
        return provision([request], golden, options, workspace=space)[0]

def said(outcome):
    return f"{type(outcome.error).__name__}: {outcome.error}"

def show(key, value):
    print(f"RESULT {key} {value}", flush=True)

sh("pvcreate", "-q", "/dev/vda")
sh("vgcreate", "-q", "vg0", "/dev/vda")
# What was on the disk before must not show through.
sh("lvcreate", "-y", "-Wn", "-Zn", "-L", "200m", "-n", "old", "vg0")
with open("/dev/vg0/old", "r+b") as stream:
    for _ in range(200):
        stream.write(b"\\xa5" * (1 << 20))
sh("lvremove", "-y", "vg0/old")
sh("lvcreate", "-y", "-L", "8m", "-n", "stranger-disk", "vg0")

first = make("web01", size="64MiB")
show("made", said(first) if first.error else first.files["disk"])
show("size", sh("blockdev", "--getsize64", "/dev/vg0/web01-disk").strip())
show("table", sh("sfdisk", "-J", "/dev/vg0/web01-disk").replace("\\n", ""))
with open("/dev/vg0/web01-disk", "rb") as stream:
    stream.seek(3 << 20)
    show("root", hashlib.sha256(stream.read(12 << 20)).hexdigest())
    show("clean", int(set(stream.read(48 << 20)) == {0}))
config = Path(first.files["config"]).read_text()
show("config", "/dev/vg0/web01-disk" in config and "format=raw" in config)
show("again", said(make("web01")))
show("taken", said(make("stranger")))
show("full", said(make("huge", size="100GiB")))
show("nowhere", said(make("lost", vg="vg9")))
show("volumes", " ".join(volumes()))

child = os.fork()
if child == 0:
    # Killed while its disk is copied: the volume is there, and the guest is not whole.
    disks.write_device = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    make("killed", size="128MiB")
    os._exit(0)
_, status = os.waitpid(child, 0)
show("child", os.waitstatus_to_exitcode(status))
show("while", " ".join(volumes()))
show("swept", " ".join(sweep()))
show("after", " ".join(volumes()))
second = make("killed", size="128MiB")
show("remade", said(second) if second.error else "ok")

with open("/dev/vg0/web01-disk", "rb"):
    try:
        destroy("web01")
    except ImagekitError as error:
        show("busy", type(error).__name__)
show("kept", " ".join(volumes()))
destroy("web01")
sh("lvremove", "-y", "vg0/killed-disk")
sh("lvcreate", "-y", "-L", "8m", "-n", "killed-disk", "vg0")
destroy("killed")
show("end", " ".join(volumes()))
"""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return small_build(tmp_path / "build")


def test_guests_on_logical_volumes_are_made_refused_and_removed_exactly(
    golden: Path, tmp_path: Path
) -> None:
    if not dm_machine.kernels():
        pytest.skip("missing: a kernel with device-mapper in /boot")
    if shutil.which("lvcreate", path="/usr/sbin:/sbin") is None:
        pytest.skip("missing: LVM, the package lvm2")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = (
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 TMPDIR=/run "
        f"IMAGEKIT_STATE=/run/state IMAGEKIT_CACHE=/run/cache PYTHONPATH={ROOT}; "
        f"{sys.executable} {program} {golden} 2>&1"
    )
    printed = dm_machine.run(tmp_path, command, disk_bytes=1 << 30, timeout=400)
    found = dict(re.findall(r"RESULT (\w+) (.*)", printed.replace("\r", "")))
    assert "end" in found, printed
    assert found["made"] == "/dev/vg0/web01-disk"
    assert int(found["size"]) == 64 * MIB
    table = json.loads(found["table"])["partitiontable"]
    assert [p["start"] for p in table["partitions"]] == [2048, 6144]
    assert table["partitions"][1]["size"] == 64 * 2048 - 2048 - 6144
    assert found["root"] == digest_of_root(golden / "small.raw")
    assert found["clean"] == "1"
    assert found["config"] == "True"
    assert found["again"].startswith("ExistsError")
    assert found["taken"].startswith("ExistsError: vg0/stranger-disk")
    assert found["full"].startswith("HostError: the volume group vg0 has")
    assert found["nowhere"].startswith("SpecError: --vg: there is no volume group vg9")
    assert found["volumes"] == "stranger-disk web01-disk"
    assert found["child"] == "-9"
    assert found["while"] == "killed-disk stranger-disk web01-disk"
    assert found["swept"] == "killed"
    assert found["after"] == "stranger-disk web01-disk"
    assert found["remade"] == "ok"
    # In use: nothing is lost, and the next try works. A volume somebody else made in place of ours
    # stays.
    assert found["busy"] == "ToolError"
    assert found["kept"] == "killed-disk stranger-disk web01-disk"
    assert found["end"] == "killed-disk stranger-disk"


def digest_of_root(disk: Path) -> str:
    with disk.open("rb") as stream:
        stream.seek(ROOT_START)
        return hashlib.sha256(stream.read(ROOT_BYTES)).hexdigest()
