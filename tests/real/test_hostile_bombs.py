"""What would use up the host's memory, processes, disk, time or log is stopped, and named."""

from __future__ import annotations

import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.attacked_host import Host, attacked_host, attempts, bare_tree, successes

from imagekit.errors import ToolError
from imagekit.host.sandbox import box
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import SCRIPT
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace

pytestmark = pytest.mark.real
MIB = 1 << 20
ENV = {"PATH": "/usr/bin:/bin"}
SMALL = replace(
    SCRIPT,
    memory=256 * MIB,
    processes=64,
    cpu_seconds=1,
    file_size=64 * MIB,
)
BOMBS = {
    "memory-bomb": "MiB of memory",
    "shared-bomb": "MiB of memory",
    "memory-files": "MiB of memory|No space left|File too large",
    "fork-bomb": "processes",
    "big-file": "MiB for a file|File too large",
    "many-files": "that stay free",
    "spin": "processor time",
}
"""Each bomb with what its error names: the bound, or what the program was told of it."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with attacked_host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture
def tree(host: Host, tmp_path: Path) -> Path:
    return bare_tree(host, tmp_path / "tree")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 GiB, which may be filled."""
    image, place = tmp_path / "small.img", tmp_path / "small"
    with image.open("xb") as stream:
        stream.truncate(1024 * MIB)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_the_step_and_the_error_names_the_bound(
    host: Host, small_disk: Path, bomb: str
) -> None:
    tree = bare_tree(host, small_disk / "tree")
    with pytest.raises(ToolError) as caught:
        Sandbox(tree, profile=SMALL).run(
            ["/usr/bin/attack", "x", bomb], env=ENV, timeout=30, what="the script bomb.sh"
        )
    error = caught.value
    assert successes(attempts(error.output)) == {}
    assert "the script bomb.sh" in error.what
    assert re.search(BOMBS[bomb], f"{error.what} {error.output}"), (error.what, error.output)
    assert host.harm() == []


def test_what_does_not_end_is_stopped_with_all_it_started(host: Host, tree: Path) -> None:
    with pytest.raises(ToolError, match=r"the script wait.sh took longer than 2 s"):
        Sandbox(tree, profile=SCRIPT).run(
            ["/usr/bin/attack", "x", "wait"], env=ENV, timeout=2, what="the script wait.sh"
        )
    assert host.harm() == []


def test_a_process_left_behind_does_not_outlive_the_step(host: Host, tree: Path) -> None:
    done = Sandbox(tree, profile=SCRIPT).run(
        ["/usr/bin/attack", "x", "daemon"], env=ENV, timeout=30
    )
    assert [a.name for a in attempts(done.text) if a.succeeded] == ["daemon"]
    assert host.harm() == []


@pytest.mark.parametrize("output", ["output", "output-line"])
def test_much_output_fills_neither_the_log_nor_memory(
    tree: Path, tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "OUTPUT", 16 * MIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    log = tmp_path / "log"
    with pytest.raises(ToolError, match=r"the script loud\.sh printed more than 16 MiB"):
        Sandbox(tree, profile=SCRIPT).run(
            ["/usr/bin/attack", "x", output],
            env=ENV,
            timeout=60,
            log=log,
            what="the script loud.sh",
        )
    assert log.stat().st_size <= 16 * MIB
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert grown <= 64 * MIB


ON_A_TERMINAL = """
import sys
from pathlib import Path
from imagekit.host.sandbox import box
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import SCRIPT
for name in ("terminal", "descriptors", "others-descriptors"):
    box = Sandbox(Path(sys.argv[1]), profile=SCRIPT)
    done = box.run(["/usr/bin/attack", "x", name], env={}, timeout=30, check=False)
    print(done.text)
print("at a terminal:", sys.stdout.isatty())
"""


def test_the_terminal_of_the_caller_is_out_of_reach(host: Host, tree: Path) -> None:
    inner = shlex.join([sys.executable, "-c", ON_A_TERMINAL, str(tree)])
    # script(1) gives its command a terminal that controls it.
    done = subprocess.run(
        ["script", "-qec", inner, "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "at a terminal: True" in done.stdout
    found = attempts(done.stdout)
    assert len(found) == 3
    assert successes(found) == {}


def test_what_is_setuid_in_a_tree_is_closed_to_other_users(host: Host) -> None:
    def runs(program: Path) -> bool:
        # env(1) starts the program: setpriv has root's capabilities until it has started one.
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env"]
        return subprocess.run([*nobody, program, "list"], capture_output=True).returncode == 0

    # Not below pytest's own directory, which is closed to others already.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        with workspace(Events([]), Path(place, "work")) as space:
            tree = bare_tree(host, space.temporary("tree") / "tree")
            leave = Sandbox(tree, profile=SCRIPT)
            leave.run(["/usr/bin/attack", "x", "setuid"], env=ENV, timeout=30)
            left = tree / "usr/bin/left"
            assert left.stat().st_mode & 0o7777 == 0o6755
            assert not runs(left)
            assert runs(Path(shutil.copy(left, place)))
