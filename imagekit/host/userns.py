"""Working as root of a user namespace where we are not root of the host.

Root needs none of it: :func:`prefix` is then empty. An ordinary user gets mmdebstrap's own helper,
which maps the subordinate ids of /etc/subuid and /etc/subgid (mmdebstrap(1), --unshare-helper).
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
from pathlib import Path

from imagekit.errors import HostError
from imagekit.host.run import run


def prefix() -> list[str]:
    """Put before a command to run it as root of the tree's owners; raises HostError."""
    if os.geteuid() == 0:
        return []
    problem = unavailable()
    if problem:
        raise HostError(problem[0], hint=problem[1])
    return ["mmdebstrap", "--unshare-helper"]


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
    probe = run(["mmdebstrap", "--unshare-helper", "true"], check=False, timeout=30)
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
