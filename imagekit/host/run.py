"""The only place where a process is started.

Arguments are lists, never shell strings. Every child leads its own session (so that Ctrl-C at the
terminal reaches imagekit alone, which then ends its children in order), dies with its parent
(``setpriv --pdeathsig``, prctl(2) PR_SET_PDEATHSIG) and carries ``IMAGEKIT_RUN=<id>`` in its
environment, by which a later run finds what a SIGKILL orphaned (``imagekit.pipeline.workspace``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

from imagekit.errors import HostError, ToolError
from imagekit.host import tools

RUN_MARKER = "IMAGEKIT_RUN"
_CHILD = "import sys; sys.path[:] = {path!r}; from {module} import main; sys.exit(main())"
LONGEST_LINE = 1 << 20
"""Bytes; what is longer is taken for several lines."""
LONGEST_TAIL = 1 << 14
"""Bytes of output that an error shows."""

_live: set[subprocess.Popen[bytes]] = set()
_live_lock = threading.Lock()
_SEEN: ContextVar[Mapping[str, str | None]] = ContextVar("_SEEN", default=MappingProxyType({}))
"""Variables of :func:`children_see`."""


@dataclass(frozen=True)
class Completed:
    """A finished child: ``stdout`` and ``stderr`` as bytes, wall time in seconds."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output as UTF-8, undecodable bytes kept as escapes."""
        return self.stdout.decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def children_see(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Give ``variables`` to every child of this thread for the length of a block; None hides one.

    The environment of this process stays as it is.
    """
    token = _SEEN.set({**_SEEN.get(), **variables})
    try:
        yield
    finally:
        _SEEN.reset(token)


def child_argv(module: str) -> list[str]:
    """The command that runs ``main()`` of a module of imagekit in a Python of its own.

    It looks for modules where this process does, be that an archive (PEP 441), and at no variable
    of its environment (python3(1), -I and -S). Arguments follow.
    """
    quiet = ["-B"] if sys.dont_write_bytecode else []
    code = _CHILD.format(path=sys.path, module=module)
    return [sys.executable, "-I", "-S", *quiet, "-c", code]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The explicit environment of every child: a C.UTF-8 locale, a full PATH, and ``extra``."""
    env = {
        "PATH": tools.search_path(),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    for name in ("TMPDIR", "USER", "LOGNAME", "SOURCE_DATE_EPOCH", RUN_MARKER):
        if name in os.environ:
            env[name] = os.environ[name]
    for name, value in _SEEN.get().items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    env.update(extra or {})
    return env


def run(  # noqa: PLR0913 - each is one of subprocess's, by its own name
    argv: Sequence[str | Path],
    *,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    stdout: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    check: bool = True,
    what: str | None = None,
    output_limit: int | None = None,
) -> Completed:
    """Run ``argv`` to its end and return what it printed.

    ``env`` is added to :func:`environment`. ``timeout`` is in seconds. ``log`` receives stdout and
    stderr as they come; ``on_line`` is called for every line of either. ``stdout`` redirects
    standard output to an open file instead of capturing it. ``what`` words the error ("create the
    file system"). ``output_limit``, in bytes of standard output and error together, is for those
    who are not trusted to end. Raises HostError when the program is missing, ToolError when it
    exits nonzero (unless ``check`` is false) or exceeds ``timeout`` or ``output_limit``.
    """
    started = time.monotonic()
    with spawn(
        argv, env=env, cwd=cwd, stdin=input is not None, stdout=stdout, pass_fds=pass_fds
    ) as child:
        reader = _Reader(child, log, on_line, output_limit)
        try:
            reader.start(input)
            returncode = child.wait(timeout)
        except subprocess.TimeoutExpired:
            kill(child)
            text = f"{what or Path(argv[0]).name} took longer than {timeout:.0f} s and was stopped"
            raise _failure(text, reader, log) from None
        finally:
            if child.poll() is None:
                kill(child)
            reader.finish()
    if reader.flooded and output_limit is not None:
        most = f"{output_limit >> 20} MiB"
        text = f"{what or Path(argv[0]).name} printed more than {most} and was stopped"
        raise _failure(text, reader, log)
    out, err = reader.output()
    if check and returncode != 0:
        text = f"{what or 'running ' + Path(argv[0]).name} failed"
        text += f" (exit {returncode})" if returncode > 0 else f" (signal {-returncode})"
        raise _failure(text, reader, log, returncode)
    return Completed(tuple(str(a) for a in argv), returncode, out, err, time.monotonic() - started)


def _failure(
    text: str, reader: _Reader, log: Path | None, returncode: int | None = None
) -> ToolError:
    """The error ``text``, with the end of what the child printed."""
    part = "the log up to there" if reader.flooded else "the whole log"
    hint = f"{part} is in {log}" if log else None
    return ToolError(text, output=reader.tail(), returncode=returncode, hint=hint)


@contextlib.contextmanager
def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bool = False,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    pass_fds: Sequence[int] = (),
    tied: bool = True,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``argv`` and yield the Popen; leaving the block kills its whole process group.

    For long-lived children (QEMU, dnsmasq). Output goes to pipes unless redirected. Without
    ``tied`` it does not die with the thread that started it: it must see by itself when we end.
    """
    program = tools.require(str(argv[0]))
    full = [str(program), *map(str, argv[1:])]
    if tied:
        full = [str(tools.require("setpriv")), "--pdeathsig", "KILL", "--", *full]
    try:
        child = subprocess.Popen(
            full,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE if stderr is None else stderr,
            env=environment(env),
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"cannot start {program}: {error.strerror}") from error
    with _live_lock:
        _live.add(child)
    try:
        yield child
    finally:
        if child.poll() is None:
            kill(child)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()
        with _live_lock:
            _live.discard(child)


def kill(child: subprocess.Popen[bytes], grace: float = 3.0) -> None:
    """End ``child`` and its process group: SIGTERM, then SIGKILL after ``grace`` seconds."""
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait)
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def kill_all() -> None:
    """End every child still alive; called when the workspace closes."""
    with _live_lock:
        children = list(_live)
    for child in children:
        if child.poll() is None:
            kill(child)


class _Reader:
    """Drains a child's pipes in threads so that neither side blocks."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        log: Path | None,
        on_line: Callable[[str], None] | None,
        limit: int | None,
    ) -> None:
        self._child = child
        self._on_line = on_line
        self._left = limit
        self.flooded = False
        self._log: IO[bytes] | None = None
        if log is not None:
            self._log = os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
        self._lock = threading.Lock()
        self._out: list[bytes] = []
        self._err: list[bytes] = []
        self._threads: list[threading.Thread] = []

    def start(self, data: bytes | None) -> None:
        for pipe, sink in ((self._child.stdout, self._out), (self._child.stderr, self._err)):
            if pipe is not None:
                thread = threading.Thread(target=self._drain, args=(pipe, sink), daemon=True)
                thread.start()
                self._threads.append(thread)
        if data is not None and self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.write(data)
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()

    def _drain(self, pipe: IO[bytes], sink: list[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            while line := pipe.readline(LONGEST_LINE):
                with self._lock:
                    if not self._may_have(len(line)):
                        return
                    sink.append(line)
                    if self._log is not None:
                        self._log.write(line)
                        self._log.flush()
                if self._on_line is not None:
                    self._on_line(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))

    def _may_have(self, size: int) -> bool:
        """Count output; end the child when it is too much."""
        if self._left is None:
            return True
        self._left -= size
        if self._left < 0:
            self.flooded = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
        return not self.flooded

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(5)
        if self._log is not None:
            self._log.close()

    def output(self) -> tuple[bytes, bytes]:
        return b"".join(self._out), b"".join(self._err)

    def tail(self) -> str:
        source = self._err if any(line.strip() for line in self._err) else self._out
        return b"".join(source[-40:])[-LONGEST_TAIL:].decode("utf-8", "backslashreplace")
