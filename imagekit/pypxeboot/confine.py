"""Running a function without privileges, in a forked child that can only answer with a small dict.

The output directory of libxl has mode 0600, so a program that gave up root could not write there:
the parent keeps root, opens the files and hands over nothing but descriptors. It never reads what
came from the network except the child's answer, which is bounded and checked. A fork without exec
is not a new program, so this does not go through ``imagekit.host.run``.
Sources: prctl(2), setresuid(2), getrlimit(2).
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from imagekit import errors
from imagekit.errors import HostError, ImagekitError
from imagekit.host import confinement
from imagekit.pypxeboot.transfer import Deadline

MAX_ANSWER = 64 * 1024
MEMORY_BYTES = 1 << 30
GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class Confinement:
    """What the child may have: ``uid`` when we are root, open descriptors, largest file in bytes,
    seconds to live."""

    uid: int
    keep: Collection[int]
    max_file_bytes: int
    seconds: float


def run(job: Callable[[], Mapping[str, object]], limits: Confinement) -> dict[str, object]:
    """Run ``job`` in a confined child and return its dict (JSON values only).

    An ImagekitError of the job is raised here again; a child that dies or takes too long becomes
    a HostError. The child is gone when this returns.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(job, limits, writing)
    os.close(writing)
    try:
        raw = _read_answer(reading, Deadline(limits.seconds + GRACE_SECONDS))
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return _unpack(raw)


def _read_answer(fd: int, deadline: Deadline) -> bytes:
    raw = b""
    while True:
        ready, _, _ = select.select([fd], [], [], deadline.remaining())
        if not ready:
            raise HostError(
                f"the netboot was not finished after {deadline.seconds - GRACE_SECONDS:.0f} s",
                hint="see that the servers answer quickly, or raise --timeout",
            )
        piece = os.read(fd, 4096)
        raw += piece
        if not piece or len(raw) > MAX_ANSWER:
            return raw


def _unpack(raw: bytes) -> dict[str, object]:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise HostError("the confined part of pypxeboot died without an answer")
    if "error" in answer:
        kind = getattr(errors, str(answer.get("class")), HostError)
        if not (isinstance(kind, type) and issubclass(kind, ImagekitError)):
            kind = HostError
        details = {key: str(answer[key]) for key in ("where", "hint") if answer.get(key)}
        raise kind(str(answer["error"]), **details)
    return answer


def _child(job: Callable[[], Mapping[str, object]], limits: Confinement, writing: int) -> NoReturn:
    status = 1
    try:
        _confine(limits, writing)
        answer = dict(job())
        status = 0
    except ImagekitError as error:
        answer = {
            "error": error.what,
            "where": error.where,
            "hint": error.hint,
            "class": _public_class(type(error)),
        }
    except BaseException as error:
        traceback.print_exc()
        answer = {"error": f"internal error: {type(error).__name__}: {error}"}
    try:
        data = json.dumps(answer).encode()[:MAX_ANSWER]
        while data:
            data = data[os.write(writing, data) :]
        sys.stderr.flush()
    finally:
        # Not sys.exit: the parent's cleanup must not run twice.
        os._exit(status)


def _public_class(kind: type[ImagekitError]) -> str:
    return next(base.__name__ for base in kind.__mro__ if base.__module__ == errors.__name__)


def _confine(limits: Confinement, writing: int) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    confinement.close_all_but({0, 1, 2, writing, *limits.keep})
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    confinement.set_limits(
        {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: limits.max_file_bytes,
            resource.RLIMIT_AS: MEMORY_BYTES,
            resource.RLIMIT_NOFILE: 64,
        }
    )
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(limits.uid, limits.uid, limits.uid)
        os.setresuid(limits.uid, limits.uid, limits.uid)
    try:
        confinement.no_new_privileges()
        # A change of identity undoes it, so it comes after that.
        confinement.die_with_parent()
    except confinement.Missing as error:
        raise HostError(str(error)) from None
