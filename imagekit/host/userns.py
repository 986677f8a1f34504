"""Namespaces: our own mounts and processes for root, and root of a user namespace for others.

An ordinary user becomes root of a user namespace in which uid 0 is the user and the rest are the
subordinate ids of /etc/subuid and /etc/subgid (unshare(1), --map-root-user --map-auto), so that a
tree below the user's own home stays reachable.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
from pathlib import Path

from imagekit.errors import HostError
from imagekit.host.run import run

_UNSHARE_USER = ["unshare", "--user", "--map-root-user", "--map-auto"]


def prefix() -> list[str]:
    """Put before a command to run it as root of the tree's owners; raises HostError."""
    if os.geteuid() == 0:
        return []
    problem = unavailable()
    if problem:
        raise HostError(problem[0], hint=problem[1])
    return [*_UNSHARE_USER, "--"]


def isolated(*, network: bool = True) -> list[str]:
    """Put before a command to give it its own mounts, processes and IPC, and root as above.

    Nothing it mounts is seen by the host, and when it dies, or we do, everything in it dies.
    Without ``network`` it has no interface but an unconfigured loopback.
    """
    user = [] if os.geteuid() == 0 else prefix()[1:-1]
    return [
        "unshare",
        *user,
        *("--mount", "--pid", "--ipc", "--fork", "--kill-child=KILL", "--propagation=private"),
        *([] if network else ["--net"]),
        "--",
    ]


@functools.cache
def unavailable() -> tuple[str, str] | None:
    """Why user namespaces cannot be used by this user and what to change, or None."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    for table in ("/etc/subuid", "/etc/subgid"):
        try:
            lines = Path(table).read_text().splitlines()
        except OSError:
            lines = []
        if not any(line.split(":")[0] in (user, str(os.geteuid())) for line in lines):
            return (
                f"the user {user} has no subordinate ids in {table}",
                f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )
    knobs = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "user.max_user_namespaces=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for knob, (bad, setting) in knobs.items():
        path = Path(knob)
        if path.exists() and path.read_text().strip() == bad:
            return ("this host forbids user namespaces", f"as root: sysctl -w {setting}")
    if shutil.which("newuidmap") is None:
        return ("the program newuidmap is not on this host", "apt-get install uidmap")
    probe = run([*_UNSHARE_USER, "--", "true"], check=False, timeout=30)
    if probe.returncode != 0:
        return (
            "this host does not let ordinary users make user namespaces",
            "run imagekit as root, or ask for user namespaces to be allowed",
        )
    return None


def remove_tree(path: Path) -> None:
    """Remove ``path`` and all below it, also when subordinate ids own the files."""
    if not path.is_symlink() and not path.exists():
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists() and os.geteuid() != 0 and unavailable() is None:
        run([*prefix(), "rm", "-rf", "--one-file-system", "--", str(path)], check=False)
