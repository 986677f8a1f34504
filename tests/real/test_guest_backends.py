"""The same changes to a tree, and to an image made of that tree with an appliance and without one,
give the same guest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from oracles import guest_trees
from oracles.guest_images import add_program, debian_tree, partitioned

from imagekit.guest.backends.tree import run_in_tree, tree_files
from imagekit.guest.changes import (
    AddUser,
    Change,
    Copy,
    ForgetIdentity,
    HostKeysAtBoot,
    Hostname,
    Link,
    Mkdir,
    Remove,
    RunScript,
    SetHash,
    SetNetwork,
    SshKey,
    Write,
)
from imagekit.guest.inject import inject
from imagekit.guest.network.state import NetworkState, Vif
from imagekit.guest.sshkeys import PublicKey
from imagekit.installs.stages.image import change_tree
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, for the owners of files"),
]
KEY = "ssh-ed25519 AAAA me"
ALL = ("/etc", "/home", "/root", "/srv", "/opt", "/var", "/usr")
SCRIPT = RunScript(
    "probe me.sh",
    b'#!/bin/sh\n{ export -p; echo "$0"; pwd; umask; cat /etc/motd; } >/srv/probe\n',
    environment=(("SOURCE_DATE_EPOCH", "7"),),
)


def changes(base: Path) -> list[Change]:
    (base / "data").write_bytes(os.urandom(3 << 20))
    tree = base / "more"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/run.sh").write_text("#!/bin/sh\n")
    (tree / "sub/run.sh").chmod(0o750)
    (tree / "link").symlink_to("sub/run.sh")
    vifs = (
        Vif("00:16:3e:00:00:01", ("192.0.2.5/24",), ("192.0.2.1",), ("192.0.2.53",)),
        Vif("00:16:3e:00:00:02", unused=True),
    )
    return [
        ForgetIdentity(),
        Hostname("new.example.org"),
        SetNetwork(NetworkState(vifs, by_place=True, others_by_dhcp=True)),
        HostKeysAtBoot(),
        SetHash("root", "$6$abc$def"),
        SshKey("root", (PublicKey(KEY, KEY),)),
        AddUser("first.last", "First Last", "/bin/sh", ("www-data",)),
        AddUser("web", "Web", "/bin/bash"),
        SetHash("first.last", "$6$abc$ghi"),
        SshKey("first.last", (PublicKey(KEY, KEY),)),
        Copy(base / "data", "/data/big", 0o640, "web:www-data"),
        Copy(tree, "/opt/more", None, "first.last"),
        Write("/opt/setuid", b"x", 0o4750, "root:www-data"),
        Write("/etc/motd", b"new\n"),
        Link("/etc/localtime", "/usr/share/zoneinfo/Europe/Paris"),
        Mkdir("/srv/www/site", 0o2775, "web:33"),
        Remove("/var/log"),
    ]


def test_a_tree_and_an_image_become_the_same_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    tree = debian_tree()
    add_program(tree, "usr/bin/env")
    tree.links |= {"data": "/srv/real", "etc/skel/link": "nowhere"}
    tree.directories += ["srv/real", "usr/lib/systemd", "var/log/journal/0123", "etc/ssh"]
    shadow = "root:*:1:0:9:7:::\nweb:!:1:0:9:7:::\n"
    tree.files |= {
        "etc/shadow": shadow.encode(),
        "etc/skel/.profile": b"# profile\n",
        "etc/machine-id": b"0123456789abcdef\n",
        "etc/ssh/ssh_host_rsa_key": b"secret",
        "usr/sbin/sshd": b"",
        "usr/bin/ssh-keygen": b"",
        "usr/lib/systemd/systemd-resolved": b"",
        "home/web/kept": b"",
    }
    image = partitioned(tree, tmp_path / "guest.raw", tmp_path)
    plain = tmp_path / "plain.raw"
    subprocess.run(["cp", "--sparse=always", image, plain], check=True)
    root = tmp_path / "tree"
    root.mkdir()
    tree.write(root)
    wanted = changes(tmp_path)
    change_tree(root, wanted)
    with tree_files(root) as files:
        run_in_tree(SCRIPT, files, root, tmp_path / "log")
    with workspace(Events()) as space:
        assert inject(image, "raw", [*wanted, SCRIPT], workspace=space).by_appliance
        assert not inject(plain, "raw", wanted, workspace=space).by_appliance
    made = guest_trees.of_directory(root, *ALL)
    other = guest_trees.of_image(image, tmp_path / "out", *ALL)
    assert {p: s for p, s in made.items() if other.get(p) != s} == {}
    assert set(other) - set(made) == set()
    # Without an appliance it is the same guest, but for what the script made.
    third = guest_trees.of_image(plain, tmp_path / "plain", *ALL)
    probe = {"/srv/probe"}
    assert {p for p in set(other) | set(third) if other.get(p) != third.get(p)} == probe
    # Neither made nothing.
    assert made["/opt/setuid"].startswith("-rwsr-x--- 0:33")
    assert made["/home/first.last/link"] == "link to nowhere of 1002:1002"
    assert made["/home/first.last/.ssh/authorized_keys"].startswith("-rw------- 1002:1002")
    assert "stub-resolv.conf" in made["/etc/resolv.conf"]
    assert "/etc/ssh/ssh_host_rsa_key" not in made and "/var/log" not in made
    printed = (root / "srv/probe").read_text()
    assert "/.imagekit-script/probe_me.sh\n/\n0022\nnew\n" in printed
    assert "SOURCE_DATE_EPOCH='7'" in printed and "IMAGEKIT" not in printed
    assert not (root / ".imagekit-script").exists()
    for disk in (image, plain):
        fsck = ["e2fsck", "-fn", f"{disk}?offset={1 << 20}"]
        assert subprocess.run(fsck, capture_output=True).returncode == 0
