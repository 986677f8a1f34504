"""Files of a tree on this host, as root of whatever owns them; and programs run in it.

The tree is not trusted: a child that runs as root of the tree's user namespace does what is asked,
and follows no link of it (:mod:`imagekit.guest.backends.tree_child`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from imagekit.guest.backends.served import ServedFiles
from imagekit.guest.changes import RunScript
from imagekit.guest.scripts import command, placed
from imagekit.host import userns
from imagekit.host.chroot import chroot
from imagekit.host.run import spawn
from imagekit.host.sandbox.profiles import SCRIPT

SHIPS = ("tree_child.py",)
CHILD = Path(__file__).with_name("tree_child.py")


@contextlib.contextmanager
def tree_files(tree: Path) -> Iterator[TreeFiles]:
    """The files of ``tree`` for the length of a block; raises HostError without namespaces."""
    with spawn([*userns.prefix(), sys.executable, "-I", CHILD, tree], stdin=True) as child:
        yield TreeFiles(child)


class TreeFiles(ServedFiles):
    """The file operations of a tree; made by :func:`tree_files`."""


def run_in_tree(script: RunScript, files: TreeFiles, tree: Path, log: Path) -> None:
    """Run a program in ``tree`` as root, with the host's network; ``log`` gets what it prints.

    Raises ToolError when it fails.
    """
    with placed(script, files) as program:
        chroot(
            tree,
            command(script, program),
            profile=SCRIPT,
            network=True,
            log=log,
            timeout=script.timeout,
            what=f"the script {script.name}",
        )
