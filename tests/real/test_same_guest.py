"""One spec's files, users and scripts give one guest: by debootstrap, from ISO, over the network.

All three guests are made of one tree of packages: the small installer unpacks the demo's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles import guest_trees
from oracles.builds import ROOT, Build
from oracles.tiny_installer import HASH, KEY, Parts, guest_spec
from ruamel.yaml import YAML

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, for the owners of files"),
]
ASKED = """
identity:
  ssh_keys: ["{key}"]
  root_password: {{file: hash}}
  users:
    - name: ann
      gecos: Ann A
      shell: /bin/sh
      groups: [adm, staff]
      ssh_keys: ["{key}"]
      password: {{file: hash}}
    - {{name: first.last, gecos: F L, sudo: true, ssh_keys: ["{key}"]}}
files:
  - {{target: /etc/issue.net, content: "by a file\\n"}}
  - {{target: /opt/deep/down/data, source: data, mode: "0640", owner: "ann:staff"}}
  - {{target: /usr/local/bin/run, content: "#!/bin/sh\\n", mode: "4755"}}
  - {{target: /home/first.last/note, content: mine, owner: first.last}}
  - {{target: /srv/through/file, content: linked}}
scripts: [first.sh, second.sh]
"""
# The time of a build is that of its packages' archive, which installers do not tell.
FIRST = """#!/bin/sh
set -e
mkdir -p /srv/real /var/lib/probe
ln -s real /srv/through
echo "by a script" >/etc/issue.net
env | sed 's/^SOURCE_DATE_EPOCH=.*/SOURCE_DATE_EPOCH=set/' | sort >/srv/first
{ echo "$0"; pwd; umask; id -u; cat /etc/debian_version; } >>/srv/first
groupadd --gid 4321 made
systemctl mask systemd-pstore.service
"""
SECOND = "#!/bin/sh\ntest -e /srv/first && echo second >>/srv/first && chgrp made /srv/first\n"
WHOLE = ("/home", "/root", "/srv", "/opt", "/usr/local")
ALONE = (
    *("/etc/issue.net", "/etc/machine-id", "/etc/sudoers.d", "/etc/sudoers.d/imagekit-first+last"),
    "/etc/systemd/system/systemd-pstore.service",
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, object]], Path]:
    """Writes the spec of the guest as one method installs it."""
    base = tmp_path_factory.mktemp("same")
    (base / "hash").write_text(HASH + "\n")
    (base / "data").write_bytes(os.urandom(100_000))
    (base / "first.sh").write_text(FIRST)
    (base / "second.sh").write_text(SECOND)

    def write(method: dict[str, object]) -> Path:
        value = YAML(typ="safe").load(ROOT / "examples/web01.yaml")
        value |= YAML(typ="safe").load(ASKED.format(key=KEY))
        value["disk"]["formats"] = ["raw"]
        value |= method
        install = value["install"]
        path = base / f"{install['method']}.yaml"
        with path.open("w") as stream:
            YAML().dump(value, stream)
        return path

    return write


QUICK = {"args": "tiny=quick", "memory": 768, "timeout": 1500, "idle": 400}


@pytest.fixture(scope="module")
def built(spec: Callable[[dict[str, object]], Path], build: Callable[..., Build]) -> dict[str, str]:
    """The guest of a debootstrap build."""
    return contents(build(spec({})))


def contents(made: Build) -> dict[str, str]:
    """What the spec had a say in, file by file; accounts without the day of their password."""
    image = made.disk("raw")
    scratch = image.with_suffix(".out")
    every = guest_trees.of_image(image, scratch, "/etc", *WHOLE)
    found = {p: said for p, said in every.items() if p in ALONE or p.startswith(WHOLE)}
    for name, fields in (("passwd", 7), ("group", 4), ("shadow", 2)):
        for line in (scratch / "etc" / name).read_text().splitlines():
            row = line.split(":")
            found[f"{name} of {row[0]}"] = ":".join(row[:fields])
    subprocess.run(["rm", "-rf", "--one-file-system", scratch], check=True)
    return found


def test_the_spec_was_obeyed(built: dict[str, str]) -> None:
    assert built["/opt/deep/down/data"].startswith("-rw-r----- 1000:50 ")
    assert built["/usr/local/bin/run"].startswith("-rwsr-xr-x 0:0 ")
    assert built["/home/first.last/note"].startswith("-rw-r--r-- 1001:1001 ")
    assert built["/home/ann/.ssh/authorized_keys"].startswith("-rw------- 1000:1000 ")
    assert built["/srv/real/file"].startswith("-rw-r--r-- 0:0 ")
    assert built["/srv/first"].startswith("-rw-r--r-- 0:4321 ")
    assert built["/etc/sudoers.d/imagekit-first+last"].startswith("-r--r----- 0:0 ")
    assert built["/etc/systemd/system/systemd-pstore.service"] == "link to /dev/null of 0:0"
    assert built["shadow of ann"] == f"ann:{HASH}"
    assert built["passwd of first.last"].endswith(":F L:/home/first.last:/bin/bash")


def test_an_iso_installs_the_same_guest(
    built: dict[str, str],
    spec: Callable[[dict[str, object]], Path],
    build: Callable[..., Build],
    tiny_parts: Parts,
    shared: Path,
) -> None:
    iso = guest_spec(shared, tiny_parts).with_name("tiny.iso")
    made = build(spec({"install": {"method": "iso", "iso": str(iso), **QUICK}}))
    assert differences(built, contents(made)) == {}


@pytest.mark.long
def test_the_network_installs_the_same_guest(
    built: dict[str, str],
    spec: Callable[[dict[str, object]], Path],
    build: Callable[..., Build],
    tiny_parts: Parts,
    mirror: int,
) -> None:
    install = {"kernel": str(tiny_parts.kernel), "initrd": str(tiny_parts.initrd), **QUICK}
    os_ = {
        "distribution": "debian",
        "suite": "bookworm",
        "mirror": f"http://10.0.2.2:{mirror}/mirror",
    }
    made = build(spec({"install": {"method": "netboot", **install}, "os": os_}))
    assert differences(built, contents(made)) == {}


def differences(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What is not the same, by path."""
    return {
        path: (one.get(path, "none"), other.get(path, "none"))
        for path in sorted({*one, *other})
        if one.get(path) != other.get(path)
    }
