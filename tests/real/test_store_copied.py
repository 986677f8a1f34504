"""A store and a build directory that were copied to another path and another host are the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from oracles.builds import ROOT
from support.damage import flip

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, who may have another host name"),
]
# Does what "imagekit build" does with a plan, here of stages that take no time.
BUILD = """
import random, sys
from pathlib import Path
from imagekit.disk.extents import copy_sparse, sha256_sparse
from imagekit.pipeline.build_directory import BuildDirectory
from imagekit.pipeline.deliver import deliver, plan_digest
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import execute
from imagekit.pipeline.plan import make_plan
from imagekit.pipeline.stage import Stage, Target
from imagekit.pipeline.store import Store
from imagekit.spec.manifest import Manifest

class Made(Stage):
    title = "making"
    def __init__(self, name, needs, interim):
        self.name, self.interim = name, interim
        self.makes, self.needs = (f"{name}.img", f"{name}.json"), needs
    def key(self):
        return {}
    def run(self, run):
        before = [run.inputs[n].read_bytes() for n in self.needs]
        own = random.Random(self.name).randbytes(200_000 if before else 6 << 20)
        with (run.output / self.makes[0]).open("wb") as stream:
            stream.write((before[0][:4 << 20] if before else b"") + own)
            stream.write(before[0][4 << 20:] if before else b"")
            stream.truncate(64 << 20)
        (run.output / self.makes[1]).write_text(self.name)

out, *options = sys.argv[1:]
verify = "--verify" in options
stages = [Made("tree", (), False), Made("phase", ("tree.img",), True)]
stages += [Made("disk", ("phase.img",), False)]
plan = make_plan(stages, [Target(n, n, "disk") for s in stages[1:] for n in s.makes])
directory = BuildDirectory(Path(out), sha256_sparse)
if directory.manifest() and directory.intact(plan_digest(plan), verify=verify):
    print("nothing to do")
    sys.exit()
store = Store(digest=sha256_sparse, verify=verify)
results = execute(plan, store, Events(), guest="g", fresh=False, digest=sha256_sparse)
deliver(plan, results, directory, Manifest(name="g"), copy_sparse)
store.condense()
print("made", *(name for name, result in results.items() if not result.cached))
"""


def build(site: Path, *options: str, host: str = "here") -> str:
    """Build in ``site``, which has store and build directory, on a machine of that name."""
    shell = 'hostname "$1" && shift && exec "$@"'
    argv = ["unshare", "--uts", "sh", "-euc", shell, "sh", host]
    argv += [sys.executable, "-c", BUILD, str(site / "out"), *options]
    env = {**os.environ, "IMAGEKIT_CACHE": str(site / "cache")}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def digests(site: Path) -> str:
    argv = ["sha256sum", *sorted(path.name for path in (site / "out").glob("*.img"))]
    return subprocess.run(argv, cwd=site / "out", check=True, capture_output=True, text=True).stdout


def copied(site: Path, target: Path, how: str) -> Path:
    if how == "tar":
        target.mkdir()
        made = subprocess.run(["tar", "-S", "-C", site, "-c", "."], check=True, capture_output=True)
        subprocess.run(["tar", "-C", target, "-x"], check=True, input=made.stdout)
    elif how == "rsync":
        if shutil.which("rsync") is None:
            pytest.skip("missing: rsync")
        subprocess.run(["rsync", "-a", f"{site}/", target], check=True)
    else:
        subprocess.run(["cp", "-a", site, target], check=True)
    return target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    assert build(path) == "made tree phase disk"
    assert build(path) == "nothing to do"
    (part,) = (path / "cache/store/objects").glob("*/*.difference")
    assert part.name == "phase.img.difference"
    return path


@pytest.mark.parametrize("how", ["cp", "tar", "rsync"])
def test_the_next_build_of_a_copy_on_another_host_does_nothing(
    site: Path, tmp_path: Path, how: str
) -> None:
    copy = copied(site, tmp_path / "a copy", how)
    assert build(copy, host="elsewhere") == "nothing to do"
    shutil.rmtree(copy / "out")
    assert build(copy, host="elsewhere") == "made"
    assert digests(copy) == digests(site)


def test_a_flipped_bit_anywhere_is_found_and_what_it_is_in_is_made_anew(
    site: Path, tmp_path: Path
) -> None:
    """In the build directory, in whole files, and in differences, their bases and records."""
    right = digests(site)
    objects = sorted(p for p in (site / "cache/store/objects").glob("*/*") if p.is_file())
    assert len(objects) == 3 * 3
    for number, path in enumerate([*objects, *sorted((site / "out").glob("disk.*"))]):
        copy = copied(site, tmp_path / str(number), "cp")
        flip(copy / path.relative_to(site))
        if path in objects:
            shutil.rmtree(copy / "out")  # or nothing would be taken from the store
        said = build(copy, "--verify", host="elsewhere")
        assert said.startswith("made")
        if path in objects and path.name not in ("tree.img", "tree.json", "object.json"):
            assert said != "made", path
        assert digests(copy) == right
        assert build(copy, "--verify") == "nothing to do"
        shutil.rmtree(copy)
