"""Files that a child serves, by requests and answers on its pipes.

What the child is, and what it has given up, is its back end's; the protocol is that of
:mod:`imagekit.guest.backends.tree_child`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import IO, Any

from imagekit.errors import GuestError
from imagekit.guest.files import GuestFiles, Status

PIECE = 1 << 20
"""Bytes of a file that travel in one message."""
_LONGEST, _MOST = 64 << 20, 4 << 20
"""Bytes of an answer's line, as of a directory's names, and of what follows it."""


class ServedFiles(GuestFiles):
    """The file operations that ``child`` serves."""

    def __init__(self, child: Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None  # noqa: S101 - pipes
        self._child = child
        self._requests: IO[bytes] = child.stdin
        self._answers: IO[bytes] = child.stdout

    def lstat(self, path: str) -> Status | None:
        """See :class:`GuestFiles`."""
        found = self._call("lstat", path)[0]
        with self._as_agreed():
            return None if found is None else Status(*map(int, found))

    def readlink(self, real: str) -> str:
        """See :class:`GuestFiles`."""
        return str(self._call("readlink", real)[0])

    def _names(self, real: str) -> list[str]:
        found = self._call("names", real)[0]
        with self._as_agreed():
            return [str(name) for name in found]

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
            answer = json.loads(self._answers.readline(_LONGEST))
        except (OSError, ValueError):
            raise self._ended() from None
        with self._as_agreed():
            size = int(answer["size"])
            payload = self._answers.read(min(max(size, 0), _MOST))
            if "errno" not in answer:
                return answer["value"], payload
            number, said = int(answer["errno"]), str(answer["error"])
        raise self._refused(number, f"{call}: {said}", path)

    @contextlib.contextmanager
    def _as_agreed(self) -> Iterator[None]:
        """An answer that is not one of the protocol is the end of the child, for it may have been
        led to say anything."""
        try:
            yield
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise self._ended() from None

    def _refused(self, number: int, what: str, path: str) -> GuestError:
        """The error for a call that failed with the errno ``number``."""
        del number
        return GuestError(what, where=path)

    def _ended(self) -> GuestError:
        """The error for a child that does not answer."""
        return GuestError(f"the tree cannot be changed: {self._last_words()}")

    def _last_words(self) -> str:
        with contextlib.suppress(TimeoutExpired):
            self._child.wait(5)
            if self._child.stderr is not None:
                said = self._child.stderr.read(4096).decode("utf-8", "replace").strip()
                return said.rpartition("\n")[2] or "its server ended"
        return "its server does not answer"
