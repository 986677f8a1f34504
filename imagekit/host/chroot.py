"""Runs a command inside a tree, in namespaces of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from imagekit.host import userns
from imagekit.host.run import Completed, run

SHIPS = ("chroot.sh",)
CHROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def chroot(  # noqa: PLR0913 - they are those of run(), handed on
    tree: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    network: bool = False,
    timeout: float | None = 1800,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    check: bool = True,
    what: str | None = None,
) -> Completed:
    """Run ``argv`` as root in ``tree`` with its own /proc, /dev, /sys and /run; raises ToolError.

    Mounts, processes and IPC are private; the network is the host's only with ``network``. The
    environment is fixed but for ``env``. ``timeout`` is in seconds.
    """
    script = (Path(__file__).parent / "chroot.sh").read_bytes()
    inside = {
        "PATH": CHROOT_PATH,
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "TZ": "UTC",
        **(env or {}),
    }
    prefix = userns.isolated(network=network)
    return run(
        [*prefix, "sh", "-s", "--", str(tree), *argv],
        input=script,
        env=inside,
        timeout=timeout,
        log=log,
        on_line=on_line,
        check=check,
        what=what,
    )
