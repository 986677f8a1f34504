"""Forks a confined worker for each input of a stranger; started by ``imagekit.host.worker``.

It imports the parsers, gives up everything (``confinement``), and says on its socket what the host
did not allow. Then each request is one message: JSON, and the descriptors of the arguments, of the
answer, of the status, and of the files. A worker calls one function of the module that was
imported, writes its answer and ends; how it ended is written to the status by this process, which
never looks at a stranger's bytes. It ends when its socket is closed.
"""

from __future__ import annotations

import codecs
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import Any, NoReturn, get_type_hints

from imagekit import errors
from imagekit.errors import ImagekitError
from imagekit.host import confinement, wire

MAX_REQUEST = 4096
MAX_FILES = 200
"""Files of one request; unix(7) hands over 253 descriptors at once."""
MAX_ARGUMENTS = 64 << 20
TOO_LONG = 1 << 16
"""Stands for the exit status of a worker that was killed because its time was over."""
STATUS = struct.Struct("<i")
# A worker loads nothing, and these are looked for when they are first used: names in GPT, VHD and
# Joliet are UTF-16.
CODECS = ("utf-16", "utf-16-be", "utf-16-le")


@dataclass(frozen=True)
class Failure:
    """Why there is no result: ``kind`` is a class of ``imagekit.errors``, ``memory`` or
    ``crash``."""

    kind: str
    what: str
    where: str | None = None
    hint: str | None = None


@dataclass
class Worker:
    """A child at work: where its status goes, and when its time is over (time.monotonic())."""

    status: int
    end: float
    late: bool = field(default=False)


class Zygote:
    """The process that forks workers; ``module`` holds the functions that may be called."""

    def __init__(self, control: socket.socket, module: ModuleType) -> None:
        self._control = control
        self._module = module
        self._workers: dict[int, Worker] = {}
        self._filter: confinement.Allowed | None = None

    def confine(self) -> list[str]:
        """Give up all that the host lets us give up; what it did not, in words."""
        missing = []
        try:
            self._filter = confinement.Allowed()
        except confinement.Missing as error:
            missing.append(str(error))
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        confinement.close_all_but({0, 1, 2, self._control.fileno()})
        try:
            confinement.unshare()
            confinement.fork_first()
            confinement.empty_root()
        except confinement.Missing as error:
            missing.append(str(error))
        # From here on nothing may fail: these need no permission.
        os.umask(0o077)
        confinement.become_nobody()
        if os.geteuid() == 0:
            missing.append("a user that is not root: this container has no nobody")
        confinement.drop_capabilities()
        confinement.no_new_privileges()
        with suppress(confinement.Missing):
            confinement.die_with_parent()
        return missing

    def serve(self) -> None:
        """Fork workers until the socket is closed."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note)
        while True:
            ready = self._wait(reading)
            if reading in ready:
                with suppress(BlockingIOError):
                    os.read(reading, 4096)
            self._reap()
            if self._control.fileno() in ready and not self._request():
                return

    def _wait(self, reading: int) -> set[int]:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        for worker in self._workers.values():
            poll.register(worker.status, 0)  # an error: nobody reads it any more
        now = time.monotonic()
        first = min((w.end for w in self._workers.values()), default=None)
        # A worker that ignores its end is killed again after a second.
        found = dict(poll.poll(None if first is None else max(first - now, 1.0) * 1000))
        for pid, worker in self._workers.items():
            if worker.end <= time.monotonic() or worker.status in found:
                worker.late = True
                os.kill(pid, signal.SIGKILL)
        return set(found)

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is not None:
                code = TOO_LONG if worker.late else os.waitstatus_to_exitcode(status)
                with suppress(OSError):
                    os.write(worker.status, STATUS.pack(code))
                os.close(worker.status)

    def _request(self) -> bool:
        """Start a worker for one request; false when there will be no more."""
        data, files, _, _ = socket.recv_fds(self._control, MAX_REQUEST, MAX_FILES + 3)
        if not data:
            return False
        request = json.loads(data)
        arguments, answer, status, *inputs = files
        pid = os.fork()
        if pid == 0:
            self._work(request, arguments, answer, inputs)
        for number in (arguments, answer, *inputs):
            os.close(number)
        self._workers[pid] = Worker(status, time.monotonic() + request["seconds"])
        return True

    def _work(self, request: Any, arguments: int, answer: int, inputs: list[int]) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            confinement.die_with_parent()
            confinement.close_all_but({0, 1, 2, arguments, answer, *inputs})
            confinement.set_limits(
                {
                    resource.RLIMIT_CORE: 0,
                    resource.RLIMIT_NPROC: 0,
                    resource.RLIMIT_NOFILE: 2 * MAX_FILES,
                    resource.RLIMIT_FSIZE: request["file_bytes"],
                    resource.RLIMIT_CPU: request["cpu_seconds"],
                    resource.RLIMIT_AS: request["memory"],
                }
            )
            if self._filter is not None:
                self._filter.put_on()
            given = os.pread(arguments, MAX_ARGUMENTS, 0)
            text = answer_of(self._module, request["function"], inputs, given)
            while text:
                text = text[os.write(answer, text) :]
            code = 0
        finally:
            # Not sys.exit: what the zygote would clean up is not ours.
            os._exit(code)


def _note(_number: int, _frame: FrameType | None) -> None:
    """SIGCHLD wakes the loop by its descriptor; without a handler it would be ignored."""


def answer_of(module: ModuleType, name: str, files: list[int], given: bytes) -> bytes:
    """The answer of the function ``name`` for ``files`` and the arguments ``given``: (result,
    None) or (None, Failure)."""
    function = getattr(module, name)
    try:
        hints = get_type_hints(function)
        # The first parameter is the descriptors.
        kinds = [hints[p] for p in function.__code__.co_varnames[1 : function.__code__.co_argcount]]
        arguments = wire.decode(kinds, given)
        return wire.encode((function(tuple(files), *arguments), None))
    except ImagekitError as error:
        kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == errors.__name__)
        failure = Failure(kind, error.what, error.where, error.hint)
    except MemoryError:
        failure = Failure("memory", "")
    except Exception as error:
        failure = Failure("crash", f"{type(error).__name__}: {error} ({_place(error)})")
    return wire.encode((None, failure))


def _place(error: BaseException) -> str:
    """Function and line where ``error`` was raised."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def main() -> int:
    """Import, give up, serve. The argument is JSON: the module to import and the socket."""
    job = json.loads(sys.argv[1])
    control = socket.socket(fileno=job["socket"])
    zygote = Zygote(control, importlib.import_module(job["module"]))
    for name in CODECS:
        codecs.lookup(name)
    control.send(json.dumps(zygote.confine()).encode())
    zygote.serve()
    return 0
