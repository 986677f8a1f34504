"""A tree of a few programs of this host, enough for scripts to run in."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = (
    *("bash", "sh", "dash", "env", "cat", "ls", "cp", "mv", "rm", "mkdir", "ln", "touch", "id"),
    *("find", "grep", "sort", "date", "mktemp", "basename", "dirname", "tee", "sleep", "mknod"),
    *("mount", "chroot", "stat", "sed", "mawk", "setsid", "truncate", "readlink", "dd", "xargs"),
)


def make_small_tree(tree: Path) -> Path:
    """Fill the new directory ``tree`` with programs and their libraries; usr is merged."""
    (tree / "usr/bin").mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / name).mkdir(exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")
    for name in ("etc", "tmp", "root", "boot", "var/log"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for program in PROGRAMS:
        found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert found, program
        shutil.copy(found, tree / "usr/bin" / program)
        listing = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listing):
            target = tree / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(library, target)
    (tree / "usr/bin/awk").symlink_to("mawk")
    return tree
