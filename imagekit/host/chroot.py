"""Runs a command inside a tree, with the environment that programs of packages expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from imagekit.host.run import Completed, environment
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import PACKAGES, Profile

VARIABLE = "SOURCE_DATE_EPOCH"
CHROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def chroot(  # noqa: PLR0913 - they are those of run(), handed on
    tree: Path,
    argv: Sequence[str],
    *,
    profile: Profile = PACKAGES,
    env: Mapping[str, str] | None = None,
    network: bool = False,
    timeout: float | None = 1800,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    check: bool = True,
    what: str | None = None,
) -> Completed:
    """Run ``argv`` as root of ``tree`` in a sandbox; raises ToolError, and HostError without one.

    The environment is fixed but for ``env`` and the build's SOURCE_DATE_EPOCH, by which mkinitramfs
    and others give the same bytes each time. ``timeout`` is in seconds.
    """
    seen = environment()
    inside = {
        "PATH": CHROOT_PATH,
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "TZ": "UTC",
        **({VARIABLE: seen[VARIABLE]} if VARIABLE in seen else {}),
        **(env or {}),
    }
    sandbox = Sandbox(tree, profile, network=network)
    return sandbox.run(
        argv,
        env=inside,
        timeout=timeout,
        log=log,
        on_line=on_line,
        check=check,
        what=what,
    )
