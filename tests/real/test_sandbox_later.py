"""What a sandbox shows at a second place once its program asks, as root and as an ordinary user."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import ROOT
from oracles.ordinary_user import AsUser

pytestmark = pytest.mark.real
Ask = Callable[[str], subprocess.CompletedProcess[str]]

RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import PACKAGES
home = Path(sys.argv[2])
tree = home / "tree"
(tree / "sys").mkdir(parents=True)
(tree / "real").mkdir()
if sys.argv[3] == "link":
    (tree / "proc").symlink_to("real")
else:
    (tree / "proc").mkdir()
later = {"/proc": "/imagekit/tree/proc", "/sys": "/imagekit/tree/sys"}
box = Sandbox(tree, PACKAGES, host_programs=True, writable={tree: "/imagekit/tree"}, later=later)
path = {"PATH": "/usr/sbin:/usr/bin"}
done = box.run(["sh", "-c", sys.argv[4]], env=path, timeout=60, check=False)
print(done.text, end="")
print(done.stderr.decode(), file=sys.stderr, end="")
print([p.name for p in (tree / "real").iterdir()] + [p.name for p in (tree / "sys").iterdir()])
sys.exit(done.returncode)
"""
ASK = """
cd /imagekit/tree
test -z "$(ls proc)" && echo empty
echo >&8 && read -r shown <&8 || { echo refused; exit 3; }
test -e proc/self/status && test -d sys/class && echo shown
umount proc 2>/dev/null && echo "taken away"
mount --bind /usr real 2>/dev/null && echo mounted
echo >&8; timeout 5 sh -c 'read -r again <&8' && echo "asked twice"
true
"""


@pytest.fixture(params=["root", "an ordinary user"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Ask:
    """Runs ASK in a sandbox whose tree has a directory, or a "link", at /proc."""

    def run(kind: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-I", "-c", RUN, str(ROOT)]
        if request.param == "root":
            argv += [str(tmp_path / "root"), kind, ASK]
            return subprocess.run(argv, capture_output=True, text=True, timeout=120)
        user: AsUser = request.getfixturevalue("as_builder")
        return user(*argv, tmp_path / "home", kind, ASK)

    return run


def test_the_kernels_files_are_shown_once_when_asked_for(ask: Ask) -> None:
    done = ask("directory")
    assert done.returncode == 0, done.stderr
    *said, left = done.stdout.splitlines()
    assert said == ["empty", "shown"]
    assert json.loads(left) == []


def test_nothing_is_shown_through_a_link_of_the_tree(ask: Ask) -> None:
    done = ask("link")
    assert done.returncode == 3
    assert "refused" in done.stdout
    assert "cannot be shown twice" in done.stderr
