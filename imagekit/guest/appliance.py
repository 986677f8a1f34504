"""The libguestfs appliance: a small virtual machine in which images are opened.

The host never parses a file system of an image. libguestfs runs in this process, each of its calls
in one worker thread, so that a signal or a time limit ends a call at once by killing its QEMU.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import queue
import secrets
import signal
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import GuestError, HostError
from imagekit.host import tools
from imagekit.host.kvm import KvmVerdict, kvm_works
from imagekit.pipeline.workspace import Workspace

LAUNCH_TIMEOUT = 240.0
CALL_TIMEOUT = 300.0
"""Seconds for one operation; an image that keeps the appliance busy for longer is refused."""

MEMORY_MIB = 1280
"""What one takes, by default (guestfs_set_memsize in guestfs(3))."""

_MARKER = "IMAGEKIT_APPLIANCE"
_STARTING = threading.Lock()
_starting = 0
_running: set[Appliance] = set()
_DRIVERS = {"raw": "raw", "qcow2": "qcow2"}


@dataclass(frozen=True)
class Drive:
    """A disk of the appliance: ``format`` is raw or qcow2, never probed.

    ``discard`` lets what its file systems do not use become holes (fstrim).
    """

    path: Path
    format: str
    readonly: bool = True
    discard: bool = False


class CallFailed(GuestError):
    """One libguestfs call failed; ``action`` names it, ``errno`` is what its kernel said."""

    def __init__(self, action: str, message: str, number: int) -> None:
        super().__init__(f"{action.replace('_', ' ')}: {message}")
        self.action = action
        self.message = message
        self.errno = number


class Appliance:
    """A launched appliance; made by :func:`appliance`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._errors = _ErrorState(handle)
        self.pid: int | None = None
        """That of its QEMU, once it runs."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._console: deque[str] = deque(maxlen=200)
        self._dead = False
        self._thread = threading.Thread(target=self._work, name="libguestfs", daemon=True)
        self._thread.start()

    def call(self, action: str, *args: Any, timeout: float = CALL_TIMEOUT, **options: Any) -> Any:
        """Call the libguestfs action of that name (guestfs(3)) and return what it returns.

        Raises CallFailed when it fails, GuestError when it exceeds ``timeout`` seconds.
        """
        if self._dead:
            raise GuestError("the appliance has ended")
        job = _Job(lambda: getattr(self._handle, action)(*args, **options))
        self._jobs.put(job)
        try:
            finished = job.done.wait(timeout)
        except BaseException:
            self.kill()
            job.done.wait(10)
            raise
        if not finished:
            self.kill()
            job.done.wait(10)
            raise GuestError(
                f"{action.replace('_', ' ')} took longer than {timeout:.0f} s and was stopped"
            )
        if job.error is None:
            return job.result
        if isinstance(job.error, RuntimeError):
            raise CallFailed(action, _without_prefix(str(job.error), action), job.errno)
        if isinstance(job.error, UnicodeError):
            raise CallFailed(action, "a name in the image is not UTF-8", errno.EILSEQ)
        raise CallFailed(action, f"{type(job.error).__name__}: {job.error}", 0)

    def console(self) -> str:
        """The last lines the appliance's console printed, for a failed launch."""
        return "".join(self._console)[-4000:]

    def watch_console(self, event: int) -> None:
        """Keep the console's output; ``event`` is guestfs.EVENT_APPLIANCE."""
        self._handle.set_event_callback(self._on_console, event)

    def kill(self) -> None:
        """End QEMU and whatever else libguestfs started, at once."""
        self._dead = True
        if self.pid is not None:
            found = {self.pid}
        else:
            pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
            found = pids - {os.getpid(), *(machine.pid for machine in list(_running))}
        wanted = f"{_MARKER}={_token()}".encode()
        for pid in found:
            # The mark also tells QEMU from a stranger who has its number since it ended.
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)

    def finish(self) -> None:
        """Unmount, flush everything to the disks and stop; raises CallFailed when that fails."""
        self.call("shutdown")

    def close(self) -> None:
        """Release everything; safe after any failure."""
        self._dead = True
        job = _Job(self._handle.close)
        self._jobs.put(job)
        if not job.done.wait(20):
            self.kill()
            job.done.wait(10)
        _running.discard(self)
        self._jobs.put(None)
        self._thread.join(5)

    def _work(self) -> None:
        self._errors.silence()
        while (job := self._jobs.get()) is not None:
            job.run(self._errors)

    def _on_console(self, _event: int, _handle: int, text: str, _numbers: Sequence[int]) -> None:
        self._console.append(text)


class _ErrorState:
    """The two calls of guestfs(3) about errors that its Python binding does not offer.

    libguestfs keeps its error handler and last errno per thread; the binding silences only the
    thread that made the handle. Both methods belong into the worker thread.
    """

    def __init__(self, handle: Any) -> None:
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        self._library = ctypes.CDLL("libguestfs.so.0")
        # The binding has no public way to the C handle, and none to what is called here.
        self._pointer = ctypes.c_void_p(get_pointer(handle._o, b"guestfs_h"))  # noqa: SLF001 - see above

    def silence(self) -> None:
        """Stop libguestfs from printing errors of this thread on stderr."""
        self._library.guestfs_set_error_handler(self._pointer, None, None)

    def last_errno(self) -> int:
        """The errno of this thread's last failed call, 0 when there was none."""
        return int(self._library.guestfs_last_errno(self._pointer))


class _Job:
    """A call handed to the worker thread."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self.done = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self.errno = 0

    def run(self, state: _ErrorState) -> None:
        try:
            self.result = self._action()
        except Exception as error:  # handed to the caller's thread
            self.error = error
            self.errno = state.last_errno()
        self.done.set()


@contextlib.contextmanager
def appliance(
    drives: Sequence[Drive],
    *,
    workspace: Workspace,
    network: bool = False,
    kvm: KvmVerdict | None = None,
) -> Iterator[Appliance]:
    """Launch an appliance with ``drives`` (/dev/sda, /dev/sdb ...) for the length of a block.

    Without ``network`` it has no network card. ``kvm`` None asks :func:`kvm_works`. Leaving the
    block stops it; call :meth:`Appliance.finish` first where something was written. Raises
    HostError when libguestfs cannot run here.
    """
    guestfs = _library()
    _check_host()
    sweep_sockets()
    verdict = kvm if kvm is not None else kvm_works(workspace.directory.parent.parent)
    handle = guestfs.GuestFS(python_return_dict=True)
    machine = Appliance(handle)
    _running.add(machine)
    with contextlib.ExitStack() as stack:
        stack.callback(machine.close)
        machine.watch_console(guestfs.EVENT_APPLIANCE)
        handle.set_backend("direct")
        handle.set_backend_settings([] if verdict.works else ["force_tcg"])
        handle.set_tmpdir(str(workspace.temporary("libguestfs")))
        handle.set_network(network)
        handle.set_autosync(True)
        handle.set_identifier("imagekit")
        for drive in drives:
            machine.call(
                "add_drive_opts",
                str(drive.path.absolute()),
                format=_DRIVERS[drive.format],
                readonly=drive.readonly,
                cachemode="unsafe" if not drive.readonly else "writeback",
                discard="enable" if drive.discard else "disable",
            )
        _launch(machine)
        yield machine


def kill_appliances() -> None:
    """End every appliance of this process at once; what is being called in them fails."""
    for machine in list(_running):
        machine.kill()


@functools.cache
def _token() -> str:
    """What marks the processes that libguestfs starts for this one."""
    return secrets.token_hex(8)


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    """Mark the children made in the block; several appliances may start at once."""
    global _starting
    with _STARTING:
        _starting += 1
        os.environ[_MARKER] = _token()
    try:
        yield
    finally:
        with _STARTING:
            _starting -= 1
            if not _starting:
                os.environ.pop(_MARKER, None)


def _launch(machine: Appliance) -> None:
    try:
        with _marked():
            machine.call("launch", timeout=LAUNCH_TIMEOUT)
        machine.pid = int(machine.call("get_pid"))
    except GuestError as error:
        raise HostError(
            f"the libguestfs appliance does not start: {_first_line(error.what)}",
            hint="libguestfs-test-tool tells more; imagekit doctor lists what is needed",
        ) from error


def _library() -> Any:
    try:
        import guestfs
    except ImportError:
        raise HostError(
            "the Python module guestfs is not on this host",
            hint="apt-get install python3-guestfs, and a virtual environment made with "
            "/usr/bin/python3 -m venv --system-site-packages",
        ) from None
    return guestfs


def _check_host() -> None:
    """libguestfs boots the host's own kernel (supermin(1)); it must be there and readable."""
    tools.require("qemu-system-x86_64")
    tools.require("qemu-img")
    if os.environ.get("SUPERMIN_KERNEL"):
        return
    kernels = sorted(Path("/boot").glob("vmlinuz*"))
    if not kernels:
        raise HostError(
            "libguestfs needs a kernel of the host to boot, and /boot has none",
            hint="apt-get install linux-image-amd64",
        )
    if not any(os.access(kernel, os.R_OK) for kernel in kernels):
        raise HostError(
            f"libguestfs needs to read {kernels[-1]}, which this user may not",
            hint=f"as root: chmod 0644 {kernels[-1]}, or run imagekit as root",
        )


def sweep_sockets() -> None:
    """Remove the socket directories of appliances whose process was killed (SIGKILL).

    libguestfs makes them as /tmp/libguestfs?????? for root, whatever the temporary directory is,
    and only itself removes them.
    """
    try:
        bound = Path("/proc/net/unix").read_text("utf-8", "replace")
    except OSError:
        return
    for directory in Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp").glob("libguestfs??????"):  # noqa: S108
        with contextlib.suppress(OSError):
            status = directory.lstat()
            entries = list(directory.iterdir())
            ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            used = any(f" {entry}\n" in bound for entry in entries)
            # An empty one belongs to an appliance that is just starting.
            stale = entries and not used and all(entry.is_socket() for entry in entries)
            if ours and stale:
                for entry in entries:
                    entry.unlink()
                directory.rmdir()


def _without_prefix(text: str, action: str) -> str:
    for prefix in (f"{action}: ", f"guestfs_{action}: "):
        text = text.removeprefix(prefix)
    return text.strip()


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:300]
