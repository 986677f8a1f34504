"""Users and groups of a guest, read from its own files and never by running its code.

File formats: passwd(5), group(5).
"""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.errors import GuestError
from imagekit.guest.files import GuestFiles

MAX_ID = 0xFFFFFFFE


@dataclass(frozen=True)
class Account:
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str


def parse_passwd(text: str) -> dict[str, Account]:
    """Accounts by name; lines that are not accounts are left out, the first of a name counts."""
    accounts: dict[str, Account] = {}
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) != 7 or not fields[0] or fields[0][0] in "#+-":
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            accounts.setdefault(fields[0], Account(fields[0], uid, gid, fields[5]))
    return accounts


def parse_group(text: str) -> dict[str, int]:
    """Group ids by name."""
    groups: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split(":")
        gid = _number(fields[2]) if len(fields) == 4 else None
        if gid is not None and fields[0] and fields[0][0] not in "#+-":
            groups.setdefault(fields[0], gid)
    return groups


def find_account(files: GuestFiles, name: str) -> Account:
    """The account ``name`` of the guest; raises GuestError naming those there are."""
    accounts = parse_passwd(files.text("/etc/passwd") or "")
    if name not in accounts:
        people = [a.name for a in accounts.values() if a.uid == 0 or 1000 <= a.uid < 60000]
        raise GuestError(
            f"the guest has no user {name}",
            where="/etc/passwd",
            hint="its people: " + ", ".join(people[:10]) if people else None,
        )
    return accounts[name]


def find_owner(files: GuestFiles, owner: str) -> tuple[int, int]:
    """(uid, gid) for ``USER[:GROUP]``, names or numbers; without GROUP the user's own group.

    Raises GuestError for names the guest does not have.
    """
    user, _, group = owner.partition(":")
    uid = _number(user)
    gid: int | None = uid
    if uid is None:
        account = find_account(files, user)
        uid, gid = account.uid, account.gid
    if group:
        gid = _number(group)
        if gid is None:
            groups = parse_group(files.text("/etc/group") or "")
            if group not in groups:
                raise GuestError(f"the guest has no group {group}", where="/etc/group")
            gid = groups[group]
    assert gid is not None  # noqa: S101 - a number or a name above
    return uid, gid


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    value = int(text)
    return value if value <= MAX_ID else None
