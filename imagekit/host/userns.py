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

KNOBS = {
    "user.max_user_namespaces": ("0", "15000", True),
    "kernel.unprivileged_userns_clone": ("0", "1", False),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0", False),
}
"""Settings that forbid user namespaces: the value that does, a better one, whether to root too."""
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
    if os.geteuid() == 0:
        return _forbidden() or _probed(["unshare", "--user"])
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
    forbidden = _forbidden()
    if forbidden:
        return forbidden
    if shutil.which("newuidmap") is None:
        return ("the program newuidmap is not on this host", "apt-get install uidmap")
    return _probed(_UNSHARE_USER)


def _forbidden() -> tuple[str, str] | None:
    """The setting of the kernel that forbids this user to make user namespaces."""
    for knob, (bad, good, for_root) in KNOBS.items():
        path = Path("/proc/sys", knob.replace(".", "/"))
        if (for_root or os.geteuid() != 0) and path.exists() and path.read_text().strip() == bad:
            return (
                f"this host forbids user namespaces ({knob} is {bad})",
                f"as root: sysctl -w {knob}={good}",
            )
    return None


def _probed(argv: list[str]) -> tuple[str, str] | None:
    probe = run([*argv, "--", "true"], check=False, timeout=30)
    if probe.returncode == 0:
        return None
    who = "root" if os.geteuid() == 0 else "ordinary users"
    said = probe.stderr.decode("utf-8", "replace").strip()
    return (
        f"this host does not let {who} make user namespaces ({said})",
        "have user namespaces allowed: a container around imagekit may forbid them",
    )


def remove_tree(path: Path) -> None:
    """Remove ``path`` and all below it, also when subordinate ids own the files."""
    if not path.is_symlink() and not path.exists():
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists() and os.geteuid() != 0 and unavailable() is None:
        run([*prefix(), "rm", "-rf", "--one-file-system", "--", str(path)], check=False)
