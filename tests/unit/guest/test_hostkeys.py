"""Guests that lose their SSH host keys make new ones, where nothing of theirs does."""

from __future__ import annotations

from typing import Any, cast

import pytest

from imagekit.guest.files import GuestFiles
from imagekit.guest.hostkeys import NAME, UNIT, make_at_first_boot


class Tree:
    """The few calls of GuestFiles that are needed, on a dictionary."""

    def __init__(self, *paths: str) -> None:
        self.paths: dict[str, str] = dict.fromkeys(paths, "")

    def stat(self, path: str) -> Any:
        return path if path in self.paths else None

    def write(self, path: str, content: bytes, *, mode: int) -> str:
        self.paths[path] = content.decode()
        return path

    def link(self, path: str, target: str) -> None:
        self.paths[path] = f"-> {target}"


DEBIAN = ("/usr/sbin/sshd", "/usr/bin/ssh-keygen", "/usr/lib/systemd")
UNIT_PATH = f"/etc/systemd/system/{NAME}"
WANTED_BY = f"/etc/systemd/system/multi-user.target.wants/{NAME}"


def test_a_debian_guest_gets_a_unit_that_is_enabled() -> None:
    tree = Tree(*DEBIAN)
    assert make_at_first_boot(cast(GuestFiles, tree))
    assert tree.paths[UNIT_PATH] == UNIT
    assert tree.paths[WANTED_BY] == f"-> {UNIT_PATH}"
    assert not make_at_first_boot(cast(GuestFiles, tree))


@pytest.mark.parametrize(
    "paths",
    [
        (*DEBIAN, "/usr/lib/systemd/system/sshd-keygen@.service"),
        DEBIAN[:2],
        DEBIAN[1:],
        ("/usr/sbin/sshd", "/usr/lib/systemd"),
    ],
)
def test_a_guest_that_needs_none_is_left_alone(paths: tuple[str, ...]) -> None:
    tree = Tree(*paths)
    assert not make_at_first_boot(cast(GuestFiles, tree))
    assert set(tree.paths) == set(paths)
