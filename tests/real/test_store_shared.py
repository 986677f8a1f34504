"""Machines that share results in a directory: killed, full, read-only, all at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oracles.builds import ROOT

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, who can mount"),
]
ROUNDS = 2 * int(os.environ.get("IMAGEKIT_KILL_ROUNDS", "10"))
# Builds one chain of stages after the other; what a stage makes follows from its key.
MACHINE = """
import itertools, random, sys
from pathlib import Path
from imagekit.disk.extents import copy_sparse, sha256_sparse
from imagekit.pipeline.directory_remote import DirectoryRemote
from imagekit.pipeline.events import Events, PlainLines
from imagekit.pipeline.execute import execute
from imagekit.pipeline.layered import LayeredStore
from imagekit.pipeline.plan import make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.pipeline.store import Store

class Made(Stage):
    title = "making"
    def __init__(self, number, before):
        self.name = f"made{number}"
        self.makes = (f"{number}.bin",)
        self.needs = (f"{before}.bin",) if before else ()
    def key(self):
        return {}
    def run(self, run):
        with (run.output / self.makes[0]).open("wb") as stream:
            for path in run.inputs.values():
                stream.write(path.read_bytes())
            stream.write(self.name.encode() * 4000)
            stream.truncate(1 << 20)

def expected(number):
    before = expected(number - 1) if number > 1 else b""
    return (before + f"made{number}".encode() * 4000).ljust(1 << 20, b"\\0")[:1 << 20]

place, remote, rounds, length = sys.argv[1:]
stages = [Made(n, n - 1) for n in range(1, int(length) + 1)]
plan = make_plan(stages, [Target(f"{length}.bin", "x", "lab")])
print("ready", flush=True)
events = Events([PlainLines(sys.stdout)])
for number in range(int(rounds)) if int(rounds) else itertools.count():
    local = Store(Path(place) / str(number) / "store", sha256_sparse)
    store = LayeredStore(local, DirectoryRemote(Path(remote), copy_sparse), events)
    results = execute(plan, store, events, guest="g", fresh=False, digest=sha256_sparse)
    for name, result in results.items():
        (path,) = result.entry.files.values()
        assert path.read_bytes() == expected(int(name[4:])), name
    print("built", sum(r.cached for r in results.values()), flush=True)
    del store, results
    local.prune(0)
"""


def machine(place: Path, remote: Path, rounds: int, length: int = 4) -> subprocess.Popen[str]:
    """A machine of its own that builds ``rounds`` times, 0 for ever, beginning with an empty
    store each time."""
    argv = [sys.executable, "-c", MACHINE, str(place), str(remote), str(rounds), str(length)]
    env = {**os.environ, "IMAGEKIT_CACHE": str(place)}
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=env, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def said(child: subprocess.Popen[str]) -> str:
    """What a machine printed, once it has ended well."""
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return out


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    place = tmp_path / "remote"
    place.mkdir(mode=0o700)
    return place


@pytest.mark.kills
def test_a_machine_killed_at_any_moment_leaves_others_nothing_wrong(
    tmp_path: Path, remote: Path
) -> None:
    for round_ in range(ROUNDS):
        child = machine(tmp_path / f"killed{round_}", remote, 0)
        time.sleep(random.Random(round_).random() * 0.3)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        done = said(machine(tmp_path / f"next{round_}", remote, 1))
        assert "warning" not in done
        for found in remote.glob("??/*"):
            assert {p.name for p in found.iterdir()} > {"result.json"}
        if round_ % 3 == 0:  # the next one begins with an empty directory again
            for found in remote.glob("??/*"):
                found.rename(tmp_path / f"gone{round_}-{found.name}")
    said(machine(tmp_path / "last", remote, 1))
    assert "built 1" in said(machine(tmp_path / "very last", remote, 1))


def test_two_machines_share_one_directory_at_once(tmp_path: Path, remote: Path) -> None:
    machines = [machine(tmp_path / name, remote, 10) for name in ("one", "two")]
    outputs = [said(child) for child in machines]
    assert all("warning" not in out for out in outputs)
    assert all(out.rstrip().endswith("built 1") for out in outputs), "only the last is fetched"
    assert len(list(remote.glob("??/*"))) == 4
    assert list(remote.glob(".part-*")) == []


def mounted(options: str, place: Path, *commands: str) -> str:
    """Run shell ``commands`` where a file system of its own is mounted at ``place``."""
    shell = "\n".join([f'mount -t tmpfs -o {options} none "{place}"', *commands])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", shell],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(place: Path, remote: Path, length: int = 4) -> str:
    """The shell's words for a machine that builds once."""
    argv = [sys.executable, "-c", "$MACHINE", str(place), str(remote), "1", str(length)]
    return f"IMAGEKIT_CACHE={place} " + " ".join(f'"{word}"' for word in argv)


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINE", MACHINE)


@pytest.mark.parametrize("kib", [48, 72])
def test_a_full_directory_costs_a_warning(tmp_path: Path, remote: Path, kib: int) -> None:
    out = mounted(
        f"size={kib}k,mode=700",
        remote,
        command(tmp_path / "one", remote),
        f'ls -A "{remote}"',
        f'find "{remote}" -name result.json',
        command(tmp_path / "two", remote),
    )
    assert out.count("warning: ") == 2 and out.lower().count("no space left") == 2
    assert ".part-" not in out
    assert out.count("result.json") >= 1
    assert "built 0" in out and "built 1" in out, "what found a place is used"


def test_a_read_only_directory_is_read_and_costs_a_warning(tmp_path: Path, remote: Path) -> None:
    out = mounted(
        "mode=700",
        remote,
        command(tmp_path / "one", remote, 2),
        f'mount -o remount,ro "{remote}"',
        command(tmp_path / "two", remote, 4),
        command(tmp_path / "three", remote, 2),
    )
    # The second machine makes stages 3 and 4 of what it was given, and can publish neither.
    assert "built 1" in out and out.count("warning: ") == 1 and "Read-only" in out
