"""Builds that are stopped: nothing is left behind, and the next build succeeds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import ROOT, Build, Run

pytestmark = [pytest.mark.real, pytest.mark.slow]
SPEC = ROOT / "examples/web01.yaml"
STAGES = ["rootfs", "packages", "system", "kernel", "image", "configs", "qcow2", "vhd", "deliver"]
# Each stage by one signal, those with most to release by each; the others are for test-long.
MUCH_TO_RELEASE = ["rootfs", "image", "deliver"]
STOPS = [
    pytest.param(
        *(stage, number),
        marks=[] if stage in MUCH_TO_RELEASE or number == signal.SIGTERM else [pytest.mark.long],
    )
    for stage in STAGES
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
]
DELAYS = {"rootfs": 3.0, "packages": 2.0}
"""Seconds after which mmdebstrap is at work in these."""


def marked_processes(cache: Path) -> list[str]:
    """Processes, other than this one's ancestors, that belong to a build with this store."""
    wanted = f"IMAGEKIT_CACHE={cache}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            argv = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if wanted in environment and any(e.startswith(b"IMAGEKIT_RUN=") for e in environment):
            found.append(argv)
    return found


def held_by_the_host(*paths: Path) -> list[str]:
    """Mounts and loop devices that have to do with ``paths`` or with imagekit's shared memory."""
    names = [*map(str, paths), "/dev/shm/imagekit-"]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    loops = subprocess.run(["/sbin/losetup", "-a"], capture_output=True, text=True).stdout
    return [x for x in (*mounts, *loops.splitlines()) if any(n in x for n in names)]


def start(out: Path, cache: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "imagekit", "build", str(SPEC), "-o", str(out), "--json", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "IMAGEKIT_CACHE": str(cache)},
    )


def stop_at(process: subprocess.Popen[str], stage: str, number: int, delay: float) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "stage-started" and event["stage"] == stage:
            break
    time.sleep(delay)
    process.send_signal(number)
    process.stdout.close()


def leftovers(cache: Path, out: Path) -> list[str]:
    found = [str(p) for p in (cache / "work").iterdir()]
    found += [str(p) for p in (cache / "store/tmp").iterdir()]
    if out.exists():
        found += [str(p) for p in out.rglob("*.part")]
    return found


def shared_memory() -> set[str]:
    return {p.name for p in Path("/dev/shm").glob("imagekit-*")}


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of this module's own, so that other tests' builds do not count as leftovers."""
    return tmp_path_factory.mktemp("interrupted") / "cache"


@pytest.mark.parametrize(("stage", "number"), STOPS)
def test_a_build_stopped_at_any_stage_leaves_nothing(
    stage: str, number: signal.Signals, own_cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # The store keeps what was finished, so each round gets to its stage at once; the expensive
    # stages are made anew by removing their results.
    forget(own_cache, stage)
    process = start(out, own_cache)
    stop_at(process, stage, number, delay=DELAYS.get(stage, 0.15))
    status = process.wait(60)
    assert status in (0, -9 if number == signal.SIGKILL else 128 + number)
    if (out / "manifest.json").exists():
        # The last stage was over before the signal came: then the build must be whole.
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    else:
        assert status != 0
    if number == signal.SIGKILL:
        from imagekit.pipeline.workspace import sweep

        sweep(own_cache / "work")
    assert marked_processes(own_cache) == []
    if number != signal.SIGKILL:
        assert leftovers(own_cache, out) == []
    assert held_by_the_host(own_cache, out) == []


def forget(cache: Path, stage: str) -> None:
    """Make the store forget the results of ``stage``, if it has any."""
    import shutil

    artefacts = {
        "rootfs": "rootfs.tar",
        "packages": "packages.tar",
        "system": "tree.tar",
        "kernel": "kernel.json",
        "image": "disk.raw",
        "configs": "facts.json",
        "qcow2": "disk.qcow2",
        "vhd": "disk.vhd",
        "deliver": "facts.json",
    }
    for path in cache.glob(f"store/objects/*/{artefacts[stage]}"):
        shutil.rmtree(path.parent)


def test_the_build_after_all_that_succeeds_and_sweeps(own_cache: Path, tmp_path: Path) -> None:
    memory = shared_memory()
    out = tmp_path / "out"
    process = start(out, own_cache)
    assert process.stdout is not None
    process.stdout.read()
    assert process.wait(600) == 0
    assert (out / "manifest.json").exists()
    assert leftovers(own_cache, out) == []
    # A build of another test may have come meanwhile; it goes again, what is left over stays.
    others = shared_memory() - memory
    deadline = time.monotonic() + 600
    while others & shared_memory() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not others & shared_memory()


def test_two_builds_of_one_spec_at_once_both_succeed(
    demo: Build, imagekit: Run, cache: Path, tmp_path: Path, build: Callable[..., Build]
) -> None:
    change = "files=[{target: /etc/motd, content: twice}]"
    running = [start(tmp_path / name, cache, "--set", change) for name in ("one", "two")]
    for process in running:
        assert process.stdout is not None
        process.stdout.read()
        assert process.wait(600) == 0
    ran = []
    for name in ("one", "two"):
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        ran += [s["name"] for s in manifest["stages"] if not s["cached"]]
    assert sorted(ran).count("image") == 1
