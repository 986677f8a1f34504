"""Who owns a file, and who else may write to it: one's own and root's are trusted."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import struct

_ACL = "system.posix_acl_access"
_ACL_WRITE = 2
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_MASK = 0x02, 0x04, 0x08, 0x10  # posix_acl_xattr.h
_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS)


def trusted_owners() -> frozenset[int]:
    """Whose files are as good as ours: root's, our own, and for root under sudo(8) its caller's."""
    found = {0, os.geteuid()}
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and caller.isascii() and caller.isdigit():
        found.add(int(caller))
    return frozenset(found)


def owner_is_trusted(status: os.stat_result) -> bool:
    """Whether the owner is one of :func:`trusted_owners`."""
    return status.st_uid in trusted_owners()


def is_kept(status: os.stat_result) -> bool:
    """Whether a file or directory is a trusted owner's, who alone may write to it."""
    kind = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return kind and owner_is_trusted(status) and not status.st_mode & 0o022


def name_of(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def other_writers(fd: int, *, sticky: bool = True) -> str:
    """Who besides its trusted owner may write to an open file or directory; empty if nobody.

    A group counts only when others are in it: with the umask 002 of many systems, everything is
    writable for the private group of its owner. With a ``sticky`` bit (as /tmp has it), others
    cannot touch what is not theirs in a directory, so they do not count, unless ``sticky`` is
    false: they can still add names.
    """
    status = os.fstat(fd)
    if sticky and stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if not status.st_mode & stat.S_IWGRP:
        return ""  # also with an ACL, whose mask these bits are (acl(5))
    users, groups = _acl(fd, status.st_gid)
    for uid in users:
        if uid not in {*trusted_owners(), status.st_uid}:
            return f"user {name_of(uid)}"
    for gid in groups:
        if not _is_private(gid, {*trusted_owners(), status.st_uid}):
            return f"group {_group_name(gid)}"
    return ""


def _acl(fd: int, owning_group: int) -> tuple[list[int], list[int]]:
    """The users and groups that an access control list lets write; else the owning group."""
    try:
        # By this name it can be asked of a descriptor of O_PATH as well.
        data = os.getxattr(f"/proc/self/fd/{fd}", _ACL)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return [], [owning_group]
    entries = list(struct.iter_unpack("<HHI", data[4 : 4 + (len(data) - 4) // 8 * 8]))
    mask = next((rights for tag, rights, _ in entries if tag == _ACL_MASK), _ACL_WRITE)
    may = [(tag, who) for tag, rights, who in entries if rights & mask & _ACL_WRITE]
    groups = [owning_group for tag, _ in may if tag == _ACL_GROUP_OBJ]
    groups += [who for tag, who in may if tag == _ACL_GROUP]
    return [who for tag, who in may if tag == _ACL_USER], groups


def _is_private(gid: int, trusted: set[int]) -> bool:
    """Whether only ``trusted`` users are in a group."""
    try:
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        members = set()
    users = [u for u in pwd.getpwall() if u.pw_gid == gid or u.pw_name in members]
    known = {user.pw_name for user in users}
    return {user.pw_uid for user in users} <= trusted and members <= known


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
