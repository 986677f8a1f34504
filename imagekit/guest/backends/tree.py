"""Files of a tree on this host, as root of whatever owns them; and programs run in it.

The tree is not trusted: a child that runs as root of the tree's user namespace does what is asked,
and follows no link of it (:mod:`imagekit.guest.backends.tree_child`).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import IO, Any

from imagekit.errors import GuestError
from imagekit.guest.changes import RunScript
from imagekit.guest.files import GuestFiles, Status
from imagekit.guest.scripts import command, placed
from imagekit.host import userns
from imagekit.host.chroot import chroot
from imagekit.host.run import spawn
from imagekit.host.sandbox.profiles import SCRIPT

SHIPS = ("tree_child.py",)
CHILD = Path(__file__).with_name("tree_child.py")
PIECE = 1 << 20
"""Bytes of a file that travel in one message."""


@contextlib.contextmanager
def tree_files(tree: Path) -> Iterator[TreeFiles]:
    """The files of ``tree`` for the length of a block; raises HostError without namespaces."""
    with spawn([*userns.prefix(), sys.executable, "-I", CHILD, tree], stdin=True) as child:
        yield TreeFiles(child)


class TreeFiles(GuestFiles):
    """The file operations of a tree; made by :func:`tree_files`."""

    def __init__(self, child: Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None  # noqa: S101 - pipes
        self._child = child
        self._requests: IO[bytes] = child.stdin
        self._answers: IO[bytes] = child.stdout

    def lstat(self, path: str) -> Status | None:
        """See :class:`GuestFiles`."""
        found = self._call("lstat", path)[0]
        return None if found is None else Status(*map(int, found))

    def readlink(self, real: str) -> str:
        """See :class:`GuestFiles`."""
        return str(self._call("readlink", real)[0])

    def _names(self, real: str) -> list[str]:
        return [str(name) for name in self._call("names", real)[0]]

    def _read(self, real: str, count: int, offset: int) -> bytes:
        pieces = []
        while count > 0:
            piece = self._call("read", real, count=min(count, PIECE), offset=offset)[1]
            if not piece:
                break
            pieces.append(piece)
            count, offset = count - len(piece), offset + len(piece)
        return b"".join(pieces)

    def _create(self, real: str, content: bytes | Path) -> None:
        self._call("create", real, data=b"")
        if isinstance(content, bytes):
            for start in range(0, len(content), PIECE):
                self._call("append", real, data=content[start : start + PIECE])
            return
        with content.open("rb") as stream:
            while piece := stream.read(PIECE):
                self._call("append", real, data=piece)

    def _chown(self, real: str, uid: int, gid: int) -> None:
        self._call("chown", real, uid=uid, gid=gid)

    def _chmod(self, real: str, mode: int) -> None:
        self._call("chmod", real, mode=mode)

    def _rename(self, real: str, target: str) -> None:
        self._call("rename", real, target=target)

    def _symlink(self, real: str, target: str) -> None:
        self._call("symlink", real, target=target)

    def _mkdir(self, real: str) -> None:
        self._call("mkdir", real)

    def _remove(self, real: str) -> None:
        self._call("remove", real)

    def _call(
        self, call: str, path: str, data: bytes | None = None, **more: int | str
    ) -> tuple[Any, bytes]:
        request = {"call": call, "path": path, **more}
        if data is not None:
            request["size"] = len(data)
        try:
            self._requests.write(json.dumps(request).encode() + b"\n" + (data or b""))
            self._requests.flush()
            answer = json.loads(self._answers.readline())
            payload = self._answers.read(answer["size"])
        except (OSError, ValueError):
            raise GuestError(f"the tree cannot be changed: {self._last_words()}") from None
        if "errno" in answer:
            raise GuestError(f"{call}: {answer['error']}", where=path)
        return answer["value"], payload

    def _last_words(self) -> str:
        with contextlib.suppress(TimeoutExpired):
            self._child.wait(5)
            if self._child.stderr is not None:
                said = self._child.stderr.read(4096).decode("utf-8", "replace").strip()
                return said.rpartition("\n")[2] or "its server ended"
        return "its server does not answer"


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
