"""Users and groups of a guest, read and changed in its own files and never by running its code.

File formats: passwd(5), shadow(5), group(5). Lines that are no accounts are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagekit.errors import GuestError
from imagekit.guest.files import GuestFiles

MAX_ID = 0xFFFFFFFE
FIRST_UID, LAST_UID = 1000, 59999
"""Of people, by Debian's policy 9.2.2 and login.defs(5) of both families."""
DAY_OF_PASSWORD = "19700"  # noqa: S105 - shadow(5): a fixed date, so that images repeat
LOCKED = "!"
_FIELDS = {"passwd": 7, "shadow": 9, "group": 4}


@dataclass(frozen=True)
class Account:
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str


class AccountTable:
    """One of the account files: its lines by name, the first of a name as libc takes it."""

    def __init__(self, kind: str, text: str) -> None:
        """``kind`` is passwd, shadow or group."""
        self._count = _FIELDS[kind]
        self._lines = text.split("\n")
        if self._lines[-1] == "":
            self._lines.pop()

    def rows(self) -> Iterator[list[str]]:
        """The fields of every line that is an account or group."""
        for line in self._lines:
            if self._is_row(line):
                yield line.split(":")

    def find(self, name: str) -> list[str] | None:
        """The fields of the first line of that name."""
        return next((row for row in self.rows() if row[0] == name), None)

    def put(self, row: Sequence[str]) -> None:
        """Replace the first line of ``row``'s name, or add one."""
        text = ":".join(row)
        for number, line in enumerate(self._lines):
            if self._is_row(line) and line.partition(":")[0] == row[0]:
                self._lines[number] = text
                return
        self._lines.append(text)

    @property
    def text(self) -> str:
        """The file as it is now."""
        return "".join(f"{line}\n" for line in self._lines)

    def _is_row(self, line: str) -> bool:
        return line.count(":") == self._count - 1 and line[0] not in ":#+-"


def parse_passwd(text: str) -> dict[str, Account]:
    """Accounts by name; lines that are not accounts are left out, the first of a name counts."""
    accounts: dict[str, Account] = {}
    for row in AccountTable("passwd", text).rows():
        uid, gid = _number(row[2]), _number(row[3])
        if uid is not None and gid is not None:
            accounts.setdefault(row[0], Account(row[0], uid, gid, row[5]))
    return accounts


def parse_group(text: str) -> dict[str, int]:
    """Group ids by name."""
    groups: dict[str, int] = {}
    for row in AccountTable("group", text).rows():
        gid = _number(row[2])
        if gid is not None:
            groups.setdefault(row[0], gid)
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
    elif not group:
        accounts = parse_passwd(files.text("/etc/passwd") or "").values()
        gid = next((a.gid for a in accounts if a.uid == uid), uid)
    if group:
        gid = _number(group)
        if gid is None:
            groups = parse_group(files.text("/etc/group") or "")
            if group not in groups:
                raise GuestError(f"the guest has no group {group}", where="/etc/group")
            gid = groups[group]
    assert gid is not None  # noqa: S101 - a number or a name above
    return uid, gid


def set_hash(files: GuestFiles, name: str, value: str) -> None:
    """Set the password hash (crypt(5)) of ``name``; raises GuestError."""
    table = _table(files, "shadow")
    row = table.find(name)
    if row is None:
        find_account(files, name)
        row = _shadow_row(name)
    if row[1] == value:
        return  # its age counts from when it was set
    table.put([name, value, DAY_OF_PASSWORD, *row[3:]])
    files.write_text("/etc/shadow", table.text)


def add_account(files: GuestFiles, name: str, gecos: str, shell: str) -> bool:
    """Add a person with a group of that name; False for an account that is there.

    A person's gets description and shell, a program's own (below 1000) stays as it is.
    """
    passwd, groups, shadow = (_table(files, kind) for kind in ("passwd", "group", "shadow"))
    there = passwd.find(name)
    if there is not None:
        wanted = [*there[:4], gecos, there[5], shell]
        if there != wanted and (_number(there[2]) or 0) >= FIRST_UID:
            passwd.put(wanted)
            files.write_text("/etc/passwd", passwd.text)
        return False
    taken = {_number(row[2]) for table in (passwd, groups) for row in table.rows()}
    uid = next((n for n in range(FIRST_UID, LAST_UID + 1) if n not in taken), None)
    if uid is None:
        raise GuestError(f"the guest has no number left for the user {name}", where="/etc/passwd")
    group = groups.find(name)
    gid = str(uid) if group is None else group[2]
    if group is None:
        groups.put([name, "x", gid, ""])
        files.write_text("/etc/group", groups.text)
    passwd.put([name, "x", str(uid), gid, gecos, f"/home/{name}", shell])
    files.write_text("/etc/passwd", passwd.text)
    shadow.put(_shadow_row(name))
    files.write_text("/etc/shadow", shadow.text)
    return True


def join_groups(files: GuestFiles, name: str, wanted: Sequence[str]) -> None:
    """Make ``name`` a member of the groups ``wanted``; raises GuestError for unknown ones."""
    groups = _table(files, "group")
    before = groups.text
    for group in wanted:
        row = groups.find(group)
        if row is None:
            raise GuestError(
                f"the guest has no group {group} for the user {name}", where="/etc/group"
            )
        members = [member for member in row[3].split(",") if member]
        if name not in members:
            groups.put([*row[:3], ",".join([*members, name])])
    if groups.text != before:
        files.write_text("/etc/group", groups.text)


def _shadow_row(name: str) -> list[str]:
    return [name, LOCKED, DAY_OF_PASSWORD, "0", "99999", "7", "", "", ""]


def _table(files: GuestFiles, kind: str) -> AccountTable:
    path = f"/etc/{kind}"
    status = files.lstat(path)
    if status is None or not status.is_file:
        raise GuestError("is not a regular file", where=path)
    return AccountTable(kind, files.text(path) or "")


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    value = int(text)
    return value if value <= MAX_ID else None
