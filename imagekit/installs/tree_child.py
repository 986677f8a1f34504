"""Applies changes to a tree: run as a program of its own, as root of the tree's user namespace.

Standard input holds JSON: {"root": directory, "operations": [...]}; secrets travel there and not by
arguments or files. Every path is resolved inside the tree, whatever symbolic links it holds: a
link to /etc leads to the tree's /etc. It uses nothing but the standard library, because it may run
where the virtual environment cannot be read.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

MAX_LINKS = 40
DAYS_OF_PASSWORD = "19700"  # noqa: S105 - shadow(5): a fixed date, so that images repeat


class TreeError(Exception):
    """A change that cannot be made; the message goes to the user."""


def resolve_parent(root: Path, path: str) -> Path:
    """The real directory, inside ``root``, of ``path``'s last component; made where missing."""
    pending = [p for p in path.split("/") if p][:-1]
    current: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part in (".", ""):
            continue
        if part == "..":
            del current[-1:]
            continue
        here = root.joinpath(*current, part)
        try:
            status = here.lstat()
        except FileNotFoundError:
            here.mkdir(mode=0o755)
            current.append(part)
            continue
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise TreeError(f"{path}: too many symbolic links")
            target = str(here.readlink())
            if target.startswith("/"):
                current = []
            pending = [p for p in target.split("/") if p] + pending
        elif stat.S_ISDIR(status.st_mode):
            current.append(part)
        else:
            raise TreeError(f"{path}: /{'/'.join([*current, part])} is not a directory")
    return root.joinpath(*current)


def place(root: Path, path: str) -> Path:
    """Where ``path`` lies in the tree, with whatever link or file was there removed."""
    name = path.rstrip("/").rsplit("/", 1)[-1]
    if name in ("", ".", ".."):
        raise TreeError(f"{path}: names no file")
    target = resolve_parent(root, path) / name
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        raise TreeError(f"{path}: is a directory in the guest")
    return target


class Accounts:
    """passwd(5), shadow(5) and group(5) of the tree."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _read(self, name: str) -> list[list[str]]:
        path = resolve_parent(self._root, f"/etc/{name}") / name
        if path.is_symlink() or not path.is_file():
            raise TreeError(f"/etc/{name} is not a regular file")
        return [line.split(":") for line in path.read_text().splitlines() if line]

    def _write(self, name: str, rows: list[list[str]]) -> None:
        path = self._root / "etc" / name
        text = "".join(":".join(row) + "\n" for row in rows)
        with path.open("r+", encoding="utf-8") as stream:
            stream.write(text)
            stream.truncate()

    def owner(self, owner: str) -> tuple[int, int]:
        """Numeric ids of "user:group", "user" or numbers, looked up in the tree."""
        user, _, group = owner.partition(":")
        uid, gid = -1, -1
        for row in self._read("passwd"):
            if row[0] == user or row[2] == user:
                uid, gid = int(row[2]), int(row[3])
        if uid < 0 and user.isdigit():
            uid = gid = int(user)
        if group:
            found = [int(r[2]) for r in self._read("group") if group in (r[0], r[2])]
            gid = found[0] if found else (int(group) if group.isdigit() else -1)
        if uid < 0 or gid < 0:
            raise TreeError(f"the guest has no user or group {owner}")
        return uid, gid

    def set_hash(self, name: str, value: str) -> None:
        """Set the password hash of ``name``."""
        rows = self._read("shadow")
        for row in rows:
            if row[0] == name:
                row[1], row[2] = value, DAYS_OF_PASSWORD
                self._write("shadow", rows)
                return
        raise TreeError(f"the guest has no user {name}")

    def add(self, user: dict[str, Any]) -> None:
        """Add an account with its group and home directory, or complete one that is there."""
        name = user["name"]
        passwd, groups = self._read("passwd"), self._read("group")
        if not any(row[0] == name for row in passwd):
            taken = {int(r[2]) for r in passwd} | {int(r[2]) for r in groups}
            uid = next(n for n in range(1000, 60000) if n not in taken)
            passwd.append([name, "x", f"{uid}", f"{uid}", user["gecos"], f"/home/{name}"])
            passwd[-1].append(user["shell"])
            groups.append([name, "x", str(uid), ""])
            self._write("passwd", passwd)
            shadow = self._read("shadow")
            shadow.append([name, "!", DAYS_OF_PASSWORD, "0", "99999", "7", "", "", ""])
            self._write("shadow", shadow)
        for wanted in user["groups"]:
            row = next((r for r in groups if r[0] == wanted), None)
            if row is None:
                raise TreeError(f"the guest has no group {wanted} for the user {name}")
            members = [m for m in row[3].split(",") if m]
            row[3] = ",".join([*members, *([] if name in members else [name])])
        self._write("group", groups)
        if user.get("hash"):
            self.set_hash(name, user["hash"])
        self._home(name)

    def _home(self, name: str) -> None:
        row = next(r for r in self._read("passwd") if r[0] == name)
        home = resolve_parent(self._root, f"{row[5]}/x")
        uid, gid = int(row[2]), int(row[3])
        skeleton = self._root / "etc/skel"
        if skeleton.is_dir() and not skeleton.is_symlink() and not any(home.iterdir()):
            shutil.copytree(skeleton, home, symlinks=True, dirs_exist_ok=True)
        home.chmod(0o700)
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, gid, follow_symlinks=False)

    def keys(self, name: str, keys: list[str]) -> None:
        """Write ``name``'s authorized_keys, in a directory only they can read."""
        row = next((r for r in self._read("passwd") if r[0] == name), None)
        if row is None:
            raise TreeError(f"the guest has no user {name}")
        path = f"{row[5]}/.ssh/authorized_keys"
        target = place(self._root, path)
        _write_file(target, "".join(f"{k}\n" for k in keys).encode(), 0o600)
        for item in (target.parent, target):
            os.chown(item, int(row[2]), int(row[3]))
        target.parent.chmod(0o700)


def _write_file(target: Path, data: bytes, mode: int) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), mode)


def apply(root: Path, operations: list[dict[str, Any]]) -> None:
    """Carry out ``operations`` in order; raises TreeError or OSError."""
    accounts = Accounts(root)
    for operation in operations:
        if "if_exists" in operation:
            wanted = operation["if_exists"]
            there = resolve_parent(root, wanted) / wanted.rsplit("/", 1)[-1]
            if not os.path.lexists(there):
                continue
        match operation["op"]:
            case "write":
                uid, gid = accounts.owner(operation.get("owner", "root:root"))
                target = place(root, operation["path"])
                data = base64.b64decode(operation["data"])
                _write_file(target, data, operation["mode"])
                os.chown(target, uid, gid)
                target.chmod(operation["mode"])  # chown clears setuid
            case "copy":
                uid, gid = accounts.owner(operation.get("owner", "root:root"))
                target = place(root, operation["path"])
                with Path(operation["source"]).open("rb") as source, target.open("xb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                os.chown(target, uid, gid)
                target.chmod(operation["mode"])
            case "link":
                place(root, operation["path"]).symlink_to(operation["target"])
            case "directory":
                directory = resolve_parent(root, operation["path"] + "/x")
                directory.chmod(operation["mode"])
            case "remove":
                _remove(root, operation["path"])
            case "user":
                accounts.add(operation)
            case "hash":
                accounts.set_hash(operation["name"], operation["hash"])
            case "keys":
                accounts.keys(operation["name"], operation["keys"])
            case other:
                raise TreeError(f"unknown operation {other}")


def _remove(root: Path, pattern: str) -> None:
    """Remove the files that match ``pattern`` (a glob in the last component only)."""
    directory, _, name = pattern.rpartition("/")
    here = root
    for part in [p for p in directory.split("/") if p]:
        here = here / part
        if here.is_symlink() or not here.is_dir():
            return
    for path in here.glob(name):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def main() -> int:
    """Read the job, do it, and tell a failure by status 1 and one line."""
    job = json.load(sys.stdin)
    os.umask(0o022)  # directories it makes must not depend on who runs it
    try:
        apply(Path(job["root"]), job["operations"])
    except (TreeError, OSError, StopIteration) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
