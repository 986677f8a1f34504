"""Files of a guest mounted in the libguestfs appliance; and programs run in it.

libguestfs runs every file call in a chroot of the guest's root (daemon/daemon.h, CHROOT_IN), so a
symbolic link can never reach the host.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from imagekit.errors import GuestError
from imagekit.guest.appliance import Appliance, CallFailed
from imagekit.guest.changes import RunScript
from imagekit.guest.files import GuestFiles, Status
from imagekit.guest.scripts import command, placed

MAX_LOG = 1 << 20
MAX_MESSAGE = 2 << 20
"""Bytes in one call, safely below libguestfs's message limit of 4 MiB."""
_RUNNABLE = ("x86_64", "i386")
"""What an x86-64 appliance runs."""
# The shell's own exit status would not reach us together with the output.
_WRAPPER = 'output=$0 status=$1; shift; "$@" >"$output" 2>&1 </dev/null; echo $? >"$status"'


class ApplianceFiles(GuestFiles):
    """File operations on the guest mounted in ``appliance``."""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance

    def lstat(self, path: str) -> Status | None:
        """See :class:`GuestFiles`."""
        try:
            found = self.appliance.call("lstatns", path)
        except CallFailed as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        return _status(found)

    def readlink(self, real: str) -> str:
        """See :class:`GuestFiles`."""
        return str(self.appliance.call("readlink", real))

    def download(self, path: str, target: Path, limit: int) -> bool:
        """See :class:`GuestFiles`."""
        status = self.stat(path)
        if status is None or not status.is_file or status.size > limit:
            return False
        self.appliance.call("download", self.resolve(path), str(target), timeout=600)
        return True

    def _names(self, real: str) -> list[str]:
        return [str(name) for name in self.appliance.call("ls", real)]

    def _read(self, real: str, count: int, offset: int) -> bytes:
        if offset == 0 and count > MAX_MESSAGE:
            return bytes(self.appliance.call("read_file", real))[:count]
        return bytes(self.appliance.call("pread", real, count, offset))

    def _create(self, real: str, content: bytes | Path) -> None:
        if isinstance(content, bytes):
            self.appliance.call("write", real, content[:MAX_MESSAGE])
            for start in range(MAX_MESSAGE, len(content), MAX_MESSAGE):
                self.appliance.call("write_append", real, content[start : start + MAX_MESSAGE])
        else:
            self.appliance.call("upload", str(content), real, timeout=1800)

    def _chown(self, real: str, uid: int, gid: int) -> None:
        self.appliance.call("lchown", uid, gid, real)

    def _chmod(self, real: str, mode: int) -> None:
        self.appliance.call("chmod", mode, real)

    def _rename(self, real: str, target: str) -> None:
        self.appliance.call("rename", real, target)

    def _symlink(self, real: str, target: str) -> None:
        self.appliance.call("ln_s", target, real)

    def _mkdir(self, real: str) -> None:
        self.appliance.call("mkdir_p", real)

    def _remove(self, real: str) -> None:
        self.appliance.call("rm_rf", real)


def run_in_appliance(
    script: RunScript, files: ApplianceFiles, arch: str, log: Path | None = None
) -> str:
    """Run a program in the guest as root and return what it printed, the last MiB of it.

    ``arch`` is the guest's as libguestfs calls it; ``log`` is a file to write that to as well.

    Raises GuestError when the guest's processor is not ours, when it exits nonzero and when it
    exceeds its timeout.
    """
    if arch not in _RUNNABLE and arch != "unknown":
        raise GuestError(f"{script.name} cannot run: the guest is for {arch}, this host is x86-64")
    with placed(script, files) as program:
        directory = program.rpartition("/")[0]
        names = [f"{directory}/{name}" for name in (".output", ".status")]
        argv = ["/bin/sh", "-c", _WRAPPER, *names, *command(script, program)]
        try:
            files.appliance.call("command", argv, timeout=script.timeout)
            output = _tail(files, names[0])
            status = (files.text(names[1], 64) or "?").strip()
        except GuestError as error:
            raise GuestError(f"{script.name} did not run in the guest: {error.what}") from error
    if log is not None:
        log.touch(mode=0o600)
        log.write_text(output, "utf-8")
    if status != "0":
        lines = "\n".join(f"  | {line}" for line in output.splitlines()[-15:])
        raise GuestError(f"{script.name} failed in the guest (exit {status})\n{lines}".rstrip())
    return output


def _tail(files: ApplianceFiles, path: str) -> str:
    status = files.lstat(path)
    if status is None or not status.is_file:
        return ""
    start = max(0, status.size - MAX_LOG)
    data = bytes(files.appliance.call("pread", path, min(status.size, MAX_LOG), start))
    return data.decode("utf-8", "backslashreplace")


def _status(found: Any) -> Status:
    return Status(
        int(found["st_mode"]), int(found["st_uid"]), int(found["st_gid"]), int(found["st_size"])
    )
