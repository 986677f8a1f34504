"""Paths through directories of others: which names are followed, and which directories believed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.strangers import STRANGER, given_away, needs_root, strangers_folder

from imagekit.errors import HostError, SpecError
from imagekit.host.strangers import (
    make_folder,
    open_folder,
    open_path,
    require_kept_file,
    require_private_path,
    why_not_private,
)

pytestmark = needs_root


@pytest.fixture(autouse=True)
def no_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)


def read(path: Path) -> str:
    with os.fdopen(open_path(path, os.O_RDONLY)) as stream:
        return stream.read()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/secret").write_text("secret")
    return strangers_folder(tmp_path / "theirs")


@pytest.mark.parametrize("owner", [0, STRANGER])
@pytest.mark.parametrize("where", ["last", "on the way", "two links", "up and down"])
def test_links_in_a_stranger_s_directory_lead_nowhere(
    theirs: Path, tmp_path: Path, owner: int, where: str
) -> None:
    secret = tmp_path / "root/secret"
    link = theirs / "link"
    if where == "last":
        link.symlink_to(secret)
        asked = link
    elif where == "on the way":
        link.symlink_to(secret.parent)
        asked = link / "secret"
    elif where == "two links":
        link.symlink_to("other")
        (theirs / "other").symlink_to(secret)
        asked = link
    else:
        link.symlink_to("..")
        asked = link / "root/secret"
    os.chown(link, owner, owner, follow_symlinks=False)
    with pytest.raises(SpecError, match="symbolic link that a stranger may have put") as caught:
        read(asked)
    assert f"uid {STRANGER}" in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "owner", "followed"),
    [
        (0o755, 0, True),
        (0o1777, 0, True),
        (0o1777, STRANGER, False),
        (0o777, 0, False),
        (0o755, STRANGER, False),
    ],
)
def test_links_of_one_s_own_are_followed_where_others_cannot_replace_them(
    tmp_path: Path, mode: int, owner: int, followed: bool
) -> None:
    (tmp_path / "file").write_text("content")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to("../file")
    os.chown(folder / "link", owner, owner, follow_symlinks=False)
    folder.chmod(mode)
    if followed:
        assert read(folder / "link") == "content"
    else:
        with pytest.raises(SpecError):
            read(folder / "link")


def test_a_link_of_one_s_own_that_leads_to_a_stranger_s_link_is_not_followed(
    theirs: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").symlink_to("theirs/link")
    (theirs / "link").symlink_to(tmp_path / "root/secret")
    with pytest.raises(SpecError):
        read(tmp_path / "mine")


@pytest.mark.parametrize("writers", ["owner", "everybody", "everybody, sticky"])
def test_a_second_name_of_a_file_of_the_host_is_refused(
    theirs: Path, tmp_path: Path, writers: str
) -> None:
    if writers != "owner":
        os.chown(theirs, 0, 0)
        theirs.chmod(0o1777 if "sticky" in writers else 0o777)
    os.link(tmp_path / "root/secret", theirs / "disk")
    with pytest.raises(SpecError, match="has 2 names"):
        read(theirs / "disk")
    # By its own name it is a file like others, as is one of two names in a directory of ours.
    assert read(tmp_path / "root/secret") == "secret"


def test_what_is_a_stranger_s_may_have_more_names(theirs: Path) -> None:
    (theirs / "disk").write_text("x")
    given_away(theirs / "disk")
    os.link(theirs / "disk", theirs / "again")
    assert read(theirs / "again") == "x"
    os.chown(theirs / "disk", STRANGER + 1, 0)
    with pytest.raises(SpecError, match="has 2 names"):
        read(theirs / "disk")


def test_plain_files_descriptors_and_names_with_dots_are_opened(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs / "disk").write_text("x")
    assert read(theirs / "disk") == "x"
    assert read(theirs / "../theirs/./disk") == "x"
    monkeypatch.chdir(theirs)
    assert read(Path("disk")) == "x"
    assert read(Path("../root/secret")) == "secret"
    fd = os.open(theirs / "disk", os.O_RDONLY)
    (theirs / "disk").unlink()
    for name in (f"/proc/self/fd/{fd}", f"/proc/{os.getpid()}/fd/{fd}", f"/dev/fd/{fd}"):
        assert read(Path(name)) == "x"
    os.close(fd)


def test_a_loop_and_a_missing_file_are_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("loop", "missing", "missing/file", "loop/file"):
        with pytest.raises(OSError):
            open_path(tmp_path / name, os.O_RDONLY)


def test_directories_are_made_where_no_stranger_leads(theirs: Path, tmp_path: Path) -> None:
    os.close(make_folder(tmp_path / "a/b/c", 0o700))
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700
    os.close(make_folder(tmp_path / "a/b/c"))
    (theirs / "out").symlink_to(tmp_path / "root")
    for call in (make_folder, open_folder):
        with pytest.raises(SpecError):
            call(theirs / "out/new")
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["secret"]


def chain(tmp_path: Path, change: Callable[[Path], object]) -> Path:
    """The last of three directories, after ``change`` of the one in the middle."""
    last = tmp_path / "a/b/c"
    last.mkdir(parents=True)
    change(tmp_path / "a/b")
    return last


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (given_away, f"/a/b belongs to uid {STRANGER}"),
        (lambda path: path.chmod(0o777), "/a/b is writable for everybody"),
    ],
)
def test_who_may_write_above_a_directory_may_replace_it(
    tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    last = chain(tmp_path, change)
    assert says in why_not_private(last)
    with pytest.raises(HostError, match=says) as caught:
        require_private_path(last, "do this")
    assert caught.value.hint == "do this"
    (last / "file").write_text("x")
    with pytest.raises(HostError, match=says):
        require_kept_file(last / "file", "do this")


def test_private_is_what_only_we_and_root_can_change(tmp_path: Path) -> None:
    last = chain(tmp_path, lambda path: path.chmod(0o1777))
    assert why_not_private(last) == ""
    (last / "file").write_text("x")
    require_kept_file(last / "file", "")
    assert "writable for everybody" in why_not_private(last.parent)
    (tmp_path / "link").symlink_to(last)
    assert why_not_private(tmp_path / "link") == ""
    given_away(last)
    assert f"uid {STRANGER}" in why_not_private(tmp_path / "link")


def test_a_link_on_the_way_counts_with_the_directory_it_lies_in(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    theirs = strangers_folder(tmp_path / "theirs")
    (theirs / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine/file").write_text("x")
    assert "stranger" in why_not_private(theirs / "link")
    with pytest.raises(SpecError):
        require_kept_file(theirs / "link/file", "")


@pytest.mark.parametrize("change", [given_away, lambda path: path.chmod(0o666)])
def test_a_file_that_others_write_to_is_not_kept(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    (tmp_path / "file").write_text("x")
    require_kept_file(tmp_path / "file", "")
    change(tmp_path / "file")
    with pytest.raises(HostError, match="others could change it"):
        require_kept_file(tmp_path / "file", "")


def test_the_caller_of_sudo_is_no_stranger(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_away(tmp_path / "root/secret")
    (theirs / "link").symlink_to(tmp_path / "root/secret")
    given_away(theirs / "link")
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    assert read(theirs / "link") == "secret"
    assert why_not_private(theirs) == ""
