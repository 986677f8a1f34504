"""Functions that read bytes of strangers, called in a process that can do nothing else.

For each module of such functions one process is started, by the first call, and kept: it imports
the module, gives up everything (``confinement``) and forks a worker for each call. A worker has the
files that it was given, open; it cannot open others, reach a network, make processes or files, or
see the host's. It has bounds of memory, processor time and time. What it answers is checked against
the type that the function returns.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints

from imagekit import errors
from imagekit.errors import HostError, ImageError, ImagekitError, ToolError
from imagekit.host import run, wire
from imagekit.host.worker_child import MAX_FILES, STATUS, TOO_LONG, Failure

__all__ = ["MAX_FILES", "MIB", "Confined", "Limits", "missing_confinement", "stop"]

MIB = 1 << 20
_CHILD = "imagekit.host.worker_child"
_READY = 60.0
_MAX_TEXT = 2000

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """What a worker may take: bytes of address space, seconds of processor time and of time, bytes
    of its answer, and bytes of each file that it was given to write."""

    memory: int = 512 * MIB
    cpu_seconds: int = 60
    seconds: float = 300.0
    answer: int = 8 * MIB
    file_bytes: int = 0


class Confined(Generic[P, Result]):
    """``function``, called in a worker.

    It is a function of a module, with annotations of types that ``wire`` knows; its first parameter
    is a tuple of descriptors. ``what`` names what it reads in errors: "the kernel".
    """

    def __init__(
        self,
        function: Callable[Concatenate[tuple[int, ...], P], Result],
        what: str,
        limits: Limits,
    ) -> None:
        self.function = function
        self.what = what
        self.limits = limits

    def within(self, *, cpu_seconds: int, seconds: float, file_bytes: int) -> Confined[P, Result]:
        """The same with limits for one input: seconds, and bytes of each file it writes."""
        asked = replace(
            self.limits, cpu_seconds=cpu_seconds, seconds=seconds, file_bytes=file_bytes
        )
        return Confined(self.function, self.what, asked)

    def warm(self) -> None:
        """Start the process that will be needed, and do not wait for it."""
        _zygote(self.function.__module__)

    def __call__(
        self, where: str, files: Sequence[int], /, *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """The function's result for the open ``files`` and ``args``, which are positional.

        Raises what the function raises of ``imagekit.errors``; ImageError about ``where`` when a
        worker dies, passes a limit or answers with something else; HostError when none starts.
        """
        if kwargs:
            raise TypeError("arguments of a confined function are positional")
        if len(files) > MAX_FILES:
            raise HostError(f"more than {MAX_FILES} files at once", where=where)
        name, limits = self.function.__name__, self.limits
        request = {
            "function": name,
            "memory": limits.memory,
            "cpu_seconds": limits.cpu_seconds,
            "file_bytes": limits.file_bytes,
            "seconds": limits.seconds,
        }
        raw, status = _ask(self.function.__module__, request, wire.encode(args), files, limits)
        if len(raw) > limits.answer:
            how = f"makes a description of more than {limits.answer // MIB} MiB"
            raise self._hostile(how, where)
        if status != 0:
            raise self._ended(status, where)
        return self._result(raw, where)

    def _result(self, raw: bytes, where: str) -> Result:
        kind = get_type_hints(self.function)["return"]
        try:
            result, failure = wire.decode((kind | None, Failure | None), raw)
        except wire.WireError as error:
            raise self._hostile(f"makes its reader answer with {error}", where) from None
        if failure is None:
            return result  # type: ignore[no-any-return] # of the kind that was asked for
        raise self._failure(failure, where)

    def _failure(self, failure: Failure, where: str) -> ImagekitError:
        if failure.kind == "memory":
            return self._hostile(f"needs more than {self.limits.memory // MIB} MiB", where)
        if failure.kind == "crash":
            return self._hostile(f"cannot be read ({_plain(failure.what)})", where)
        kind = getattr(errors, failure.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, ImagekitError)):
            kind = ImageError
        hint = _plain(failure.hint) if failure.hint else None
        return kind(_plain(failure.what), where=_plain(failure.where or where), hint=hint)

    def _ended(self, status: int, where: str) -> ImageError:
        seconds, memory = self.limits.cpu_seconds, self.limits.memory // MIB
        if status == TOO_LONG:
            return self._hostile(f"takes more than {self.limits.seconds:.0f} s to be read", where)
        # With equal soft and hard limits the kernel kills at once (setrlimit(2)).
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            return self._hostile(f"needs more than {seconds} s of processor time", where)
        if status == -signal.SIGXFSZ:
            return self._hostile("unpacks to more than it says", where)
        how = f"is ended by signal {-status}" if status < 0 else f"ends with status {status}"
        return self._hostile(f"cannot be read within {memory} MiB: its reader {how}", where)

    def _hostile(self, how: str, where: str | None = None) -> ImageError:
        return ImageError(
            f"{self.what} {how}: it is damaged or hostile",
            where=where,
            hint="get it again from where it was made; if it is sound, tell us",
        )


def _plain(text: str) -> str:
    """Text of a stranger that may be shown on a terminal."""
    kept = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text[:_MAX_TEXT])
    return "".join(kept)


class _Zygote:
    """The running process for one module; ``missing`` is what the host did not let it give up."""

    def __init__(self, module: str) -> None:
        self._lock = threading.Lock()
        self._missing: tuple[str, ...] | None = None
        self._stack = contextlib.ExitStack()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack.callback(self._control.close)
        with theirs:
            job = json.dumps({"module": module, "socket": theirs.fileno()})
            # An empty context: variables that other children see may hold secrets.
            self._child = contextvars.Context().run(
                self._stack.enter_context,
                run.spawn(
                    [*run.child_argv(_CHILD), job],
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    tied=False,
                ),
            )

    def missing(self) -> tuple[str, ...]:
        """Wait until it is ready; raises HostError when it does not come up."""
        with self._lock:
            if self._missing is None:
                self._missing = self._ready()
            return self._missing

    def _ready(self) -> tuple[str, ...]:
        self._control.settimeout(_READY)
        try:
            said = self._control.recv(1 << 16)
            self._control.settimeout(None)
        except OSError:
            said = b""
        if not said:
            pipe = self._child.stderr
            output = b"" if pipe is None else pipe.read(_MAX_TEXT)
            raise ToolError(
                "the process that reads files of strangers did not start",
                output=output.decode("utf-8", "backslashreplace"),
            )
        return tuple(map(str, json.loads(said)))

    def send(self, request: bytes, descriptors: list[int]) -> bool:
        """Hand over a request; false when the process is gone."""
        self.missing()
        try:
            socket.send_fds(self._control, [request], descriptors)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it, and all its workers."""
        self._stack.close()


_zygotes: dict[str, _Zygote] = {}
_inherited: list[_Zygote] = []
_zygotes_lock = threading.Lock()


def _zygote(module: str) -> _Zygote:
    with _zygotes_lock:
        if module not in _zygotes:
            _zygotes[module] = _Zygote(module)
        return _zygotes[module]


def _lost(module: str, zygote: _Zygote) -> None:
    with _zygotes_lock:
        if _zygotes.get(module) is zygote:
            del _zygotes[module]
    zygote.close()


def _forget() -> None:
    """In a fork of ours: the processes are our parent's, and not to be ended when we end."""
    _inherited.extend(_zygotes.values())
    _zygotes.clear()


@atexit.register
def stop() -> None:
    """End all that wait for work; the next call starts them again."""
    with _zygotes_lock:
        found = list(_zygotes.values())
        _zygotes.clear()
    for zygote in found:
        zygote.close()


os.register_at_fork(after_in_child=_forget)


def _ask(
    module: str, request: dict[str, Any], arguments: bytes, files: Sequence[int], limits: Limits
) -> tuple[bytes, int]:
    """The answer and how the worker ended: 0, an exit status, or minus a signal."""
    text = json.dumps(request).encode()
    with contextlib.ExitStack() as stack:
        given = os.memfd_create("arguments", os.MFD_CLOEXEC)
        stack.callback(os.close, given)
        os.pwrite(given, arguments, 0)
        for _attempt in range(2):
            zygote = _zygote(module)
            answer = _asked(zygote, text, [given, *files], limits)
            if answer is not None:
                return answer
            # Somebody ended it, perhaps long ago: a new one is asked.
            _lost(module, zygote)
    raise HostError("the process that reads files of strangers was ended, twice")


def _asked(
    zygote: _Zygote, request: bytes, files: list[int], limits: Limits
) -> tuple[bytes, int] | None:
    """As :func:`_ask`; None when the process was ended before it had the answer."""
    with contextlib.ExitStack() as stack:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        status, their_status = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, reading)
        stack.callback(os.close, status)
        try:
            sent = zygote.send(request, [files[0], writing, their_status, *files[1:]])
        finally:
            os.close(writing)
            os.close(their_status)
        if not sent:
            return None
        raw = _read(reading, limits.answer)
        if len(raw) > limits.answer:
            return raw, 0
        said = os.read(status, STATUS.size)
    if len(said) != STATUS.size:
        return None
    return raw, int(STATUS.unpack(said)[0])


def _read(fd: int, limit: int) -> bytes:
    pieces, size = [], 0
    while size <= limit and (piece := os.read(fd, 1 << 20)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def missing_confinement(module: str = _CHILD) -> tuple[str, ...]:
    """What this host does not let such a process give up, in words; raises HostError."""
    return _zygote(module).missing()
