"""Functions that do, in a confined worker, what a parser that was taken over would do.

Each answers with what came of it, so that a test can tell an attempt that failed from none.
"""

from __future__ import annotations

import ctypes
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import CapabilityError


@dataclass(frozen=True)
class Seen:
    """What a worker sees of itself."""

    uid: int
    pid: int
    names: tuple[str, ...]
    descriptors: tuple[int, ...]


def _tried(attempt: object) -> str:
    return f"done: {attempt!r}"


def read_all(files: tuple[int, ...], text: str, numbers: tuple[int, ...]) -> tuple[str, bytes, int]:
    """What an honest parser does."""
    return text, os.pread(files[0], 1 << 20, 0), sum(numbers)


def open_by_name(_files: tuple[int, ...], name: str) -> str:
    """Open a file of the host for reading."""
    try:
        return _tried(os.open(name, os.O_RDONLY))
    except OSError as error:
        return f"refused: {error.errno}"


def list_root(_files: tuple[int, ...]) -> str:
    """Look around."""
    try:
        return _tried(sorted(p.name for p in Path("/").iterdir()))
    except OSError as error:
        return f"refused: {error.errno}"


def make_file(_files: tuple[int, ...], name: str) -> str:
    """Make a file."""
    try:
        return _tried(os.open(name, os.O_WRONLY | os.O_CREAT, 0o666))
    except OSError as error:
        return f"refused: {error.errno}"


def remove(_files: tuple[int, ...], name: str) -> str:
    """Remove a file of the host."""
    try:
        os.unlink(name)  # noqa: PTH108 - the call as a program would make it
    except OSError as error:
        return f"refused: {error.errno}"
    return "done"


def write_input(files: tuple[int, ...]) -> str:
    """Write into the file that was given for reading, and by a descriptor that can write."""
    try:
        return _tried(os.pwrite(files[0], b"x", 0))
    except OSError as error:
        return f"refused: {error.errno}"


def connect(_files: tuple[int, ...], port: int) -> str:
    """Reach a server of the host."""
    try:
        with socket.socket() as end:
            end.connect(("127.0.0.1", port))
            return "done"
    except OSError as error:
        return f"refused: {error.errno}"


def connect_unix(_files: tuple[int, ...], name: str) -> str:
    """Reach an abstract socket of the host (unix(7))."""
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.connect("\0" + name)
            return "done"
    except OSError as error:
        return f"refused: {error.errno}"


def fork(_files: tuple[int, ...]) -> str:
    """Make a process."""
    try:
        child = os.fork()
    except OSError as error:
        return f"refused: {error.errno}"
    if child == 0:
        os._exit(0)
    return "done"


def execute(_files: tuple[int, ...]) -> str:
    """Become another program."""
    try:
        os.execv("/bin/true", ["true"])  # noqa: S606 - it is to fail
    except OSError as error:
        return f"refused: {error.errno}"


def signal_all(_files: tuple[int, ...], pid: int) -> str:
    """End a process of the host."""
    try:
        os.kill(pid, 9)
    except OSError as error:
        return f"refused: {error.errno}"
    return "done"


def fill(files: tuple[int, ...], count: int) -> str:
    """Write ``count`` bytes into a file that was given for writing."""
    try:
        left = count
        while left:
            left -= os.write(files[0], bytes(min(left, 1 << 16)))
    except OSError as error:
        return f"refused: {error.errno}"
    return "done"


def environment(_files: tuple[int, ...]) -> dict[str, str]:
    """The variables that it can see."""
    return dict(os.environ)


def note_bytes(files: tuple[int, ...], count: int) -> tuple[bytes, ...]:
    """What a parser without total limits answers: one stretch of the file, again and again."""
    data = os.pread(files[0], 1 << 20, 0)
    return (data,) * count


def take_memory(_files: tuple[int, ...], count: int) -> int:
    """Fill ``count`` bytes."""
    return len(b"\1" * count)


def take_memory_beside(_files: tuple[int, ...], count: int) -> int:
    """The same below Python, which learns nothing of it but a null pointer."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.memset(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(count))), 1, ctypes.c_size_t(count))
    return count


def turn(_files: tuple[int, ...]) -> None:
    """Never end, and use the processor."""
    while True:
        pass


def wait(files: tuple[int, ...]) -> int:
    """Never end, and use nothing: the pipe stays empty."""
    return len(os.read(files[0], 1))


def crash(_files: tuple[int, ...], how: str) -> None:
    """Die as C code does."""
    if how == "segv":
        ctypes.string_at(0)
    os._exit(7) if how == "exit" else ctypes.CDLL(None).abort()


def talk(_files: tuple[int, ...], size: int) -> str:
    """Answer without end."""
    return "x" * size


def lie(_files: tuple[int, ...]) -> tuple[int, str]:
    """Answer with something else than the annotation says."""
    answer: tuple[int, str] = "text", 5  # type: ignore[assignment]
    return answer


def complain(_files: tuple[int, ...], text: str) -> None:
    """Raise an error of imagekit's."""
    raise CapabilityError(text, where="inside", hint=f"hint {text}")


def break_down(_files: tuple[int, ...]) -> None:
    """Raise what no parser should."""
    raise KeyError("surprise")


def look(_files: tuple[int, ...]) -> Seen:
    """Who and where it is."""
    held = []
    for number in range(128):
        try:
            os.fstat(number)
        except OSError:
            continue
        held.append(number)
    try:
        names = tuple(sorted(os.listdir("/")))  # noqa: PTH208 - text
    except OSError:
        names = ()
    return Seen(os.getuid(), os.getpid(), names, tuple(held))
