"""Two builds of one spec give the same disks, whoever builds, where, and when."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from oracles.builds import ROOT, Build, Run
from support.attacking_archive import Quiet
from support.damage import flip

from imagekit.spec.lock import Lock, read_lock

pytestmark = pytest.mark.real


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory of several GiB that does not outlive its test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def digests(build: Path) -> dict[str, str]:
    manifest = json.loads((build / "manifest.json").read_text())
    return {a["path"]: a["sha256"] for a in manifest["artefacts"] if a["role"] == "disk"}


@contextlib.contextmanager
def mirror_of(pool: Path, lock: Lock) -> Iterator[str]:
    """A mirror on loopback that has the packages of ``lock``, from a store's ``pool``, and no more.

    Gives its URL, with a host name that :func:`elsewhere` knows.
    """
    files = {f"/debian/{package.path}": pool / package.sha256 for package in lock.packages}

    class Handler(Quiet):
        def translate_path(self, path: str) -> str:
            return str(files.get(unquote(path), pool / "missing"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://mirror.elsewhere:{server.server_address[1]}/debian"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def elsewhere(url: str) -> Iterator[list[str]]:
    """Runs its arguments on another host, a day ahead, under another umask, on one processor.

    Its apt and its resolver know the mirror ``url`` alone. The clock is that of every program of
    the host, by ld.so(8)'s preload file in a mount namespace; programs inside the guest's tree have
    their own ld.so, and run at another time of the day.
    """
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="imagekit-elsewhere-"))
    directory.chmod(0o755)  # apt's methods and gpgv run as another user
    library, etc = directory / "clock.so", directory / "etc"
    source = Path(__file__).parents[1] / "oracles/clock.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    (etc / "ld.so.preload").write_text(f"{library}\n")
    (etc / "hosts").write_text("127.0.0.1 localhost mirror.elsewhere\n")
    shutil.rmtree(etc / "apt/sources.list.d")
    (etc / "apt/sources.list").write_text(f"deb {url} bookworm main\n")
    script = 'mount --bind "$1" /etc && umask 077 && hostname elsewhere && shift && exec "$@"'
    yield [*("unshare", "--uts", "--mount", "sh", "-c", script, "sh", str(etc))]
    shutil.rmtree(directory)


def test_a_locked_build_elsewhere_gives_the_same_disks_byte_by_byte(
    imagekit: Run, scratch: Path
) -> None:
    """Another directory, host, mirror, umask, time zone, locale, day and count of processors."""
    spec = scratch / "tiny.yaml"
    spec.write_text(
        "name: tiny\nos: {distribution: debian, suite: bookworm}\ninstall: {method: debootstrap}\n"
        "disk: {size: 1536MiB, formats: [raw, qcow2, vhd]}\n"
    )
    first, second = scratch / "first", scratch / "a second place"
    imagekit("build", spec, "-o", first, env={"IMAGEKIT_CACHE": str(scratch / "one")})
    lock = read_lock(first / "tiny.lock")
    assert lock.epoch_from == "archive"
    with mirror_of(scratch / "one/store/files", lock) as url, elsewhere(url) as there:
        argv = [*there, sys.executable, "-c", "import time; print(time.time())"]
        ahead = float(subprocess.run(argv, check=True, capture_output=True).stdout) - time.time()
        assert 86000 < ahead < 86800
        argv = [*there, "taskset", "--cpu-list", "0", sys.executable, "-m", "imagekit"]
        argv += ["build", str(spec), "-o", str(second), "--locked", str(first / "tiny.lock")]
        env = {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}
        env = {**os.environ, **env, "IMAGEKIT_CACHE": str(scratch / "two/x")}
        done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert digests(first) == digests(second)
    assert set(digests(first)) == {"tiny.raw", "tiny.qcow2", "tiny.vhd"}
    for path in (*digests(first), "tiny.cdx.json", "packages.json", "tiny.lock"):
        subprocess.run(["cmp", first / path, second / path], check=True)
    copies_are_as_good_and_damage_is_repaired(spec, scratch)


def copies_are_as_good_and_damage_is_repaired(spec: Path, scratch: Path) -> None:
    """The store and the build of ``first``, brought to another place by other means."""
    shutil.rmtree(scratch / "two")
    cache, out = scratch / "three", scratch / "third"
    subprocess.run(["cp", "-r", scratch / "one", cache], check=True)
    subprocess.run(["cp", "-a", scratch / "first", out], check=True)

    def cached(*options: str) -> dict[str, bool]:
        argv = [sys.executable, "-m", "imagekit", "build", str(spec), "-o", str(out), "--json"]
        env = {**os.environ, "IMAGEKIT_CACHE": str(cache)}
        argv += options
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return {e["stage"]: e["cached"] for e in events if e["event"] == "stage-finished"}

    # Configs name the directory of the build.
    assert [stage for stage, known in cached().items() if not known] == ["configs"]
    assert digests(out) == digests(scratch / "first")
    assert all(cached().values())
    for damaged in (out / "tiny.qcow2", *cache.glob("store/objects/*/disk.vhd")):
        flip(damaged)
        cached("--verify")
        for name, sha256 in digests(scratch / "first").items():
            subprocess.run(
                ["sha256sum", "-c", "-"], input=f"{sha256}  {out / name}", text=True, check=True
            )


def test_a_script_that_uses_the_clock_is_found_out(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    """Kernel and initrd are there already, which leaves the most of two builds out."""
    script = tmp_path / "clock.sh"
    script.write_text("#!/bin/sh\ndate +%s%N > /etc/built-at\n")
    script.chmod(0o755)
    spec = tmp_path / "odd.yaml"
    spec.write_text(
        "name: odd\nos: {distribution: debian, suite: bookworm}\n"
        f"install: {{method: debootstrap, kernel: {demo.one('kernel')},\n"
        f"  initrd: {demo.one('initrd')}}}\n"
        "disk: {size: 1GiB, formats: [raw]}\nboot: {modes: [pvh]}\nscripts: [./clock.sh]\n"
    )
    done = imagekit("verify-reproducible", spec, check=False)
    assert done.returncode == 9, done.stdout + done.stderr
    assert "/etc/built-at" in done.stderr
    assert "content differs at byte" in done.stderr


def test_a_locked_build_says_which_package_is_gone(
    demo: Build, imagekit: Run, tmp_path: Path
) -> None:
    lock = tmp_path / "old.lock"
    text = demo.one("lock").read_text()
    assert "adduser_" in text
    # Its digest too: what builds have fetched is kept by digest, and found whatever its path.
    text = re.sub(
        r"(?m)^.*adduser_.*$", lambda line: re.sub(r"\b[0-9a-f]{64}\b", "f" * 64, line[0]), text
    )
    lock.write_text(text.replace("adduser_", "adduser_0.0.0.is.gone_"))
    done = imagekit(
        "build", ROOT / "examples/web01.yaml", "-o", tmp_path / "out", "--locked", lock, check=False
    )
    assert done.returncode == 6, done.stdout + done.stderr
    assert "adduser" in done.stderr


def test_a_lock_of_another_spec_is_refused(demo: Build, imagekit: Run, tmp_path: Path) -> None:
    done = imagekit(
        *("build", ROOT / "examples/web01.yaml", "-o", tmp_path / "out", "--set", "disk.size=3GiB"),
        *("--locked", demo.one("lock")),
        check=False,
    )
    assert done.returncode == 3
    assert "not the one the lock was made for" in done.stderr
