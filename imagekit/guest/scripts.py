"""How programs run in a guest, wherever it is mounted: the same name, environment and directory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from imagekit.guest.changes import RunScript
from imagekit.guest.files import GuestFiles
from imagekit.host.chroot import CHROOT_PATH

DIRECTORY = "/.imagekit-script"
ENVIRONMENT = {
    "PATH": CHROOT_PATH,
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "DEBIAN_FRONTEND": "noninteractive",
    # systemctl(1): units are enabled in the files, and no manager is asked.
    "SYSTEMD_OFFLINE": "1",
}
# A guest may be without coreutils; then what the appliance has in its environment stays.
_START = (
    "umask 022; cd /; if [ -x /usr/bin/env ]; then "
    'exec /usr/bin/env -i "$@" "$0"; else export "$@"; exec "$0"; fi'
)


@contextlib.contextmanager
def placed(script: RunScript, files: GuestFiles) -> Iterator[str]:
    """Put ``script`` into the guest and yield its name there; taken away when the block ends well.

    After an error it stays in an image, which is thrown away then.
    """
    files.remove(DIRECTORY)
    directory = files.make_directory(DIRECTORY)
    files.chmod(directory, 0o700)
    # Its own name is kept, for programs that look at $0.
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", script.name).lstrip(".-") or "script"
    yield files.write(f"{directory}/{safe}", script.content, mode=0o700)
    files.remove(DIRECTORY)


def command(script: RunScript, program: str) -> list[str]:
    """What starts ``program`` in the guest: in /, with :data:`ENVIRONMENT` and the script's own."""
    variables = {**ENVIRONMENT, **dict(script.environment)}
    return ["/bin/sh", "-c", _START, program, *(f"{k}={v}" for k, v in variables.items())]
