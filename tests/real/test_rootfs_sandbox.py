"""A package's maintainer scripts get none of the host, whichever tool installs it."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from oracles.builds import Run

from imagekit.host.sandbox.network import TUN, Forward, let_through
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.stages.bootstrap import (
    HOOKS,
    REPOSITORY,
    SOURCES,
    Bootstrap,
    mirror_directories,
)
from imagekit.spec.load import load_spec

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not TUN.exists(), reason="missing: /dev/net/tun"),
]

# Each line is "name: what came of it"; a name that holds "ok" in it was done.
POSTINST = """#!/bin/bash
try() { name=$1; shift; came=no; "$@" > /dev/null 2>&1 && came=ok; echo "$name: $came"; }
tcp() { timeout 5 bash -c "exec 3<>/dev/tcp/$1/$2 && read -r x <&3 && test \\"\\$x\\" = here"; }
lead_out() { chroot /proc/1/root test -e "$1" && ! chroot /proc/1/root test -e /imagekit; }
{
try mount mount -t tmpfs none /mnt
try bind mount --bind /etc /mnt
try proc-again mount -t proc proc /mnt
try umount umount /proc
try remount mount -o remount,rw /sys
try mknod mknod /root/disk b 8 0
try unshare unshare --user --map-root-user true
try unshare-mount unshare --mount true
try sysctl sh -c 'echo 1 > /proc/sys/kernel/sysrq'
try sysfs sh -c 'echo 1 > /sys/kernel/mm/ksm/run'
try reach-host-file test -e "@SECRET@"
try out-of-the-tree lead_out "@SECRET@"
try write-hooks sh -c 'echo x > /proc/1/root/imagekit/hooks/essential.sh'
try write-usr sh -c 'echo x > /proc/1/root/usr/imagekit-was-here'
try hidden tcp 127.0.0.1 @HIDDEN@
try shown tcp 127.0.0.1 @SHOWN@
try null sh -c 'echo x > /dev/null && test -c /dev/null'
try proc-there test -e /proc/self/status
try sys-there test -d /sys/class
echo "capabilities: $(sed -n 's/^CapEff:\\t//p' /proc/self/status)"
echo "privileges: $(sed -n 's/^NoNewPrivs:\\t//p' /proc/self/status)"
} > /attempts
"""
DONE = {"null", "proc-there", "sys-there", "shown"}
SYS_ADMIN, SYS_PTRACE, MKNOD, NET_ADMIN, NET_RAW = 21, 19, 27, 12, 13  # linux/capability.h


@pytest.fixture
def services() -> Iterator[tuple[int, int]]:
    """The ports of two services on the host's loopback; the first is let through."""
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]

    def serve(one: socket.socket) -> None:
        while True:
            try:
                connection = one.accept()[0]
            except OSError:
                return
            with connection:
                connection.sendall(b"here\n")

    for one in opened:
        threading.Thread(target=serve, args=(one,), daemon=True).start()
    yield opened[0].getsockname()[1], opened[1].getsockname()[1]
    for one in opened:
        one.close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host."""
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


@pytest.fixture
def repository(tmp_path: Path, services: tuple[int, int], secret: Path) -> Path:
    """A flat archive with the package "hostile"."""
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: hostile\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Description: tries things\n"
    )
    text = POSTINST.replace("@SHOWN@", str(services[0])).replace("@HIDDEN@", str(services[1]))
    script = package / "DEBIAN/postinst"
    script.write_text(text.replace("@SECRET@", str(secret)))
    script.chmod(0o755)
    directory = tmp_path / "repository"
    directory.mkdir()
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", package, directory / "hostile.deb"],
        check=True,
        capture_output=True,
    )
    data = (directory / "hostile.deb").read_bytes()
    control = (package / "DEBIAN/control").read_text()
    (directory / "Packages").write_text(
        f"{control}Filename: ./hostile.deb\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
    )
    return directory


@pytest.fixture
def mirrors(tmp_path: Path) -> Mirrors:
    spec = tmp_path / "g.yaml"
    spec.write_text("name: g\nos: {suite: bookworm}\ninstall: {method: debootstrap}\n")
    return mirrors_for(load_spec(spec))


@pytest.fixture
def boot(tmp_path: Path, mirrors: Mirrors) -> Bootstrap:
    for name in ("tree", "work", "work/lists", "sources", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "sources/archive.gpg").write_bytes(mirrors.keyring.read_bytes())
    directories = (tmp_path / "tree", tmp_path / "work", tmp_path / "sources")
    return Bootstrap(*directories, tmp_path / "logs/log")


def attempts(tree: Path) -> dict[str, str]:
    lines = (tree / "attempts").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def judge(tree: Path, expected: set[str]) -> None:
    found = attempts(tree)
    assert len(found) == POSTINST.count("\ntry ") + 2
    assert {name for name, came in found.items() if came == "ok"} == expected
    held = int(found["capabilities"], 16)
    for number in (SYS_ADMIN, SYS_PTRACE, MKNOD, NET_ADMIN, NET_RAW):
        assert not held >> number & 1
    assert found["privileges"] == "1"
    assert not Path("/usr/imagekit-was-here").exists()
    assert (HOOKS / "essential.sh").read_text() != "x\n"
    assert str(tree) not in Path("/proc/self/mountinfo").read_text()


def test_packages_that_mmdebstrap_installs_get_nothing_of_the_host(
    boot: Bootstrap,
    mirrors: Mirrors,
    repository: Path,
    services: tuple[int, int],
) -> None:
    sources = boot.sources / "sources.list"
    lines = [
        *mirrors.lines(Path(SOURCES, "archive.gpg")),
        f"deb [trusted=yes] copy:{REPOSITORY} ./",
    ]
    sources.write_text("\n".join(lines) + "\n")
    options = ["--variant=essential", "--include=hostile", "--dpkgopt=force-unsafe-io"]
    options += [f"--keyring={SOURCES}/archive.gpg"]
    where = ["bookworm", f"{SOURCES}/sources.list"]
    with let_through([Forward("tcp", "127.0.0.1", services[0])]):
        boot.mmdebstrap(options, where, repository=repository, on_line=lambda _line: None)
    judge(boot.tree, DONE)
    assert list((boot.tree / "proc").iterdir()) == []
    assert any("InRelease" in p.name for p in (boot.work / "lists").iterdir())
    assert not re.search(r"^E:", boot.log.read_text(), re.M)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, which debootstrap needs")
def test_packages_that_debootstrap_installs_get_nothing_of_the_host(
    boot: Bootstrap,
    mirrors: Mirrors,
    repository: Path,
    services: tuple[int, int],
) -> None:
    options = ["--variant=minbase", f"--keyring={SOURCES}/archive.gpg", "--force-check-gpg"]
    boot.debootstrap(options, ["bookworm", mirrors.sources[0][0]])
    (boot.tree / "root/hostile.deb").write_bytes((repository / "hostile.deb").read_bytes())
    with let_through([Forward("tcp", "127.0.0.1", services[0])]):
        boot.inside(["dpkg", "-i", "/root/hostile.deb"], what="dpkg")
    judge(boot.tree, {*DONE, "write-usr"})  # of the tree, which is the whole root here
    assert (boot.tree / "usr/imagekit-was-here").exists()
    assert (boot.tree / "var/lib/dpkg/status").stat().st_uid == os.geteuid()
    assert not (boot.tree / "debootstrap").exists()


def test_a_directory_that_is_no_mirror_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a mirror/dists").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    urls = [f"file:{tmp_path}/a%20mirror", f"copy://{tmp_path}/none", "file:/etc", "file:///"]
    urls += [f"http://example.org{tmp_path}/a%20mirror", f"copy:{tmp_path}/a%20mirror"]
    assert mirror_directories(urls) == [tmp_path / "a mirror"]


def test_a_mirror_on_the_hosts_loopback_is_reached(imagekit: Run, tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        spec = tmp_path / "g.yaml"
        spec.write_text(
            "name: g\ninstall: {method: debootstrap}\n"
            f"os: {{suite: bookworm, mirror: 'http://localhost:{server.server_port}/debian'}}\n"
        )
        done = imagekit("build", spec, "-o", tmp_path / "out", check=False)
        server.shutdown()
    assert "the mirror has no suite bookworm" in done.stderr
    assert "/debian/dists/bookworm/InRelease" in asked
