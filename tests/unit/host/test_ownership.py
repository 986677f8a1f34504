"""Whose files are trusted, and who else can write to them."""

from __future__ import annotations

import grp
import os
import pwd
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from imagekit.host import ownership
from imagekit.host.ownership import other_writers, owner_is_trusted, trusted_owners

SOMEBODY = 64001


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> None:
    """ada with a group of her own, bob; both in staff."""
    people = [
        SimpleNamespace(pw_name="ada", pw_uid=os.geteuid(), pw_gid=7001),
        SimpleNamespace(pw_name="bob", pw_uid=SOMEBODY, pw_gid=7002),
    ]
    groups = {7001: ("ada", []), 7002: ("bob", []), 7003: ("staff", ["ada", "bob"])}

    def group(gid: int) -> SimpleNamespace:
        name, members = groups[gid]
        return SimpleNamespace(gr_name=name, gr_mem=members)

    monkeypatch.setattr(pwd, "getpwall", lambda: people)
    monkeypatch.setattr(grp, "getgrgid", group)


def writers(path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, gid: int, acl: bytes) -> str:
    path.chmod(mode)
    fd = os.open(path, os.O_RDONLY)
    real = os.fstat(fd)
    fields = (real.st_mode, real.st_ino, real.st_dev, real.st_nlink, real.st_uid, gid)
    found = os.stat_result((*fields, real.st_size, 0, 0, 0))

    def attribute(_fd: int, _name: str) -> bytes:
        if not acl:
            raise OSError(61, "no data available")
        return acl

    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", lambda _fd: found)
            patch.setattr(os, "getxattr", attribute)
            return other_writers(fd)
    finally:
        os.close(fd)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
PLAIN = ((0x01, 7, NOBODY), (0x04, 5, NOBODY), (0x20, 5, NOBODY))


@pytest.mark.parametrize(
    ("mode", "gid", "rules", "expected"),
    [
        (0o755, 7003, (), ""),
        (0o775, 7001, (), ""),  # umask 002 and a group for each user
        (0o775, 7003, (), "group staff"),
        (0o777, 7001, (), "everybody"),
        (0o1777, 7003, (), ""),
        (0o770, 7003, (*PLAIN, (0x10, 7, NOBODY)), ""),  # the mask lets write, no entry does
        (0o770, 7001, (*PLAIN, (0x02, 7, SOMEBODY), (0x10, 7, NOBODY)), f"uid {SOMEBODY}"),
        (0o770, 7001, (*PLAIN, (0x02, 5, SOMEBODY), (0x10, 7, NOBODY)), ""),
        (0o770, 7001, (*PLAIN, (0x02, 7, os.geteuid()), (0x10, 7, NOBODY)), ""),
        (0o770, 7001, (*PLAIN, (0x08, 7, 7003), (0x10, 7, NOBODY)), "group staff"),
    ],
)
def test_others_are_told_from_private_groups_and_sticky_directories(
    users: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    gid: int,
    rules: tuple[tuple[int, int, int], ...],
    expected: str,
) -> None:
    text = acl(*rules) if rules else b""
    assert expected in writers(tmp_path, monkeypatch, mode, gid, text)
    assert bool(expected) == bool(writers(tmp_path, monkeypatch, mode, gid, text))


def test_a_sticky_file_is_as_writable_as_any(
    users: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert writers(file, monkeypatch, 0o1666, 7001, b"") == "everybody"


@pytest.mark.parametrize(
    ("uid", "caller", "trusted"),
    [
        (0, str(SOMEBODY), {0, SOMEBODY}),
        (0, "", {0}),
        (0, "-1", {0}),
        (0, "root", {0}),
        (1000, str(SOMEBODY), {0, 1000}),  # the variable means something to root alone
    ],
)
def test_sudo_s_caller_is_trusted_by_root_only(
    monkeypatch: pytest.MonkeyPatch, uid: int, caller: str, trusted: set[int]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("SUDO_UID", caller)
    assert trusted_owners() == trusted
    status = os.stat_result((0o40755, 1, 1, 1, SOMEBODY, 0, 0, 0, 0, 0))
    assert owner_is_trusted(status) == (SOMEBODY in trusted)


def test_users_have_names_or_numbers() -> None:
    assert ownership.name_of(0) == "root"
    assert ownership.name_of(SOMEBODY) == f"uid {SOMEBODY}"
