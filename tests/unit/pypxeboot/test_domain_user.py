"""Which user a domain's disk is read as: the toolstack's for it, or always the same one of ours."""

from __future__ import annotations

import os
import pwd
from types import SimpleNamespace
from typing import Any

import pytest

from imagekit.host import confined
from imagekit.pypxeboot.domain_user import RANGE_BASE, domain_user

OURS = 0x78000000


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(confined, "_mapped", lambda _uid: True)


def known(monkeypatch: pytest.MonkeyPatch, uid: int | None) -> None:
    def getpwnam(name: str) -> Any:
        if name != RANGE_BASE or uid is None:
            raise KeyError(name)
        return SimpleNamespace(pw_uid=uid)

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)


@pytest.mark.parametrize(
    ("runas", "output", "base", "expected"),
    [
        ("64123", "/var/lib/xen/bootloader.7.out", 131072, 64123),
        ("", "/var/lib/xen/bootloader.7.out", 131072, 131079),
        ("", "/var/lib/xen/bootloader.7.out", None, OURS + 7),
        ("", "bootloader.32751.out", None, OURS + 32751),
    ],
)
def test_the_toolstack_says_it_or_the_number_of_the_domain(
    runas: str, output: str, base: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, base)
    assert domain_user(runas, output, "00:16:3e:00:00:01", "/disk") == expected


def test_without_a_number_it_is_known_by_its_mac_or_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, 131072)
    for output in (None, "-", "/tmp/x", "/var/lib/xen/bootloader.x.out", "bootloader.123456.out"):
        first = domain_user("", output, "00:16:3E:00:00:01", "/disk")
        assert first == domain_user("", output, "00:16:3e:00:00:01", "/other")
        assert first != domain_user("", output, "00:16:3e:00:00:02", "/disk")
        assert first is not None and OURS + 0x8000 <= first < OURS + 0x1000000
    assert domain_user("", None, "", "/a") != domain_user("", None, "", "/b")


def test_who_is_not_root_stays_who_he_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    known(monkeypatch, None)
    assert domain_user("", "/var/lib/xen/bootloader.7.out", "", "") is None
