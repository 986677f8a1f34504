"""Names below a directory that somebody else may write: what is opened, and what never is."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagekit.errors import SpecError
from imagekit.host import opening
from imagekit.host.opening import Held, Links, open_at, read_bounded, regular, walk

Opener = Callable[..., int]


@pytest.fixture(params=[open_at, walk])
def opener(request: pytest.FixtureRequest) -> Opener:
    found: Opener = request.param
    return found


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "secret").write_text("of somebody else")
    inside = tmp_path / "root"
    (inside / "a/b").mkdir(parents=True)
    (inside / "a/b/file").write_text("content")
    (inside / "secret").write_text("of the tree")
    for name, target in {
        "near": "a/b/file",
        "up": "a/b/../b/file",
        "out": "../secret",
        "absolute": "/secret",
        "outside": str(tmp_path / "secret"),
        "folder": "a",
        "outer": "..",
        "loop": "loop",
        "deep": "folder/b/../../near",
        "magic": "/proc/self/root/etc/passwd",
    }.items():
        (inside / name).symlink_to(target)
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def opened(opener: Opener, root: int, name: str, links: Links) -> str | int:
    """The content, or the number of the error."""
    try:
        fd = opener(root, name, os.O_RDONLY, links=links)
    except OSError as error:
        return error.errno or -1
    with os.fdopen(fd) as stream:
        return stream.read()


OUT, LOOP, GONE = errno.EXDEV, errno.ELOOP, errno.ENOENT


@pytest.mark.parametrize(
    ("name", "none", "beneath", "inroot"),
    [
        ("a/b/file", "content", "content", "content"),
        ("a//./b/file", "content", "content", "content"),
        ("a/b/../b/file", "content", "content", "content"),
        ("near", LOOP, "content", "content"),
        ("up", LOOP, "content", "content"),
        ("deep", LOOP, "content", "content"),
        ("folder/b/file", LOOP, "content", "content"),
        ("out", LOOP, OUT, "of the tree"),
        ("absolute", LOOP, OUT, "of the tree"),
        ("outside", LOOP, OUT, GONE),
        ("outer/secret", LOOP, OUT, "of the tree"),
        ("loop", LOOP, LOOP, LOOP),
        ("magic", LOOP, OUT, GONE),
        ("../secret", OUT, OUT, "of the tree"),
        ("/secret", OUT, OUT, "of the tree"),
        ("a/../../secret", OUT, OUT, "of the tree"),
        ("a/b/file/", errno.ENOTDIR, errno.ENOTDIR, errno.ENOTDIR),
        ("", GONE, GONE, GONE),
        ("absent", GONE, GONE, GONE),
    ],
)
def test_a_name_leads_where_it_may_and_nowhere_else(
    opener: Opener, root: int, name: str, none: object, beneath: object, inroot: object
) -> None:
    assert opened(opener, root, name, "none") == none
    assert opened(opener, root, name, "beneath") == beneath
    assert opened(opener, root, name, "root") == inroot


def test_a_file_is_made_once_and_never_through_a_link(opener: Opener, root: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    os.close(opener(root, "a/new", flags, mode=0o600))
    for name in ("a/new", "out", "near"):
        with pytest.raises(OSError) as caught:
            opener(root, name, flags, mode=0o600, links="beneath")
        assert caught.value.errno == errno.EEXIST


def test_a_kernel_or_a_filter_without_openat2_is_walked(
    root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.ENOSYS, errno.EPERM, errno.EAGAIN):

        def refused(*_args: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(opening, "_openat2", refused)
        assert opened(open_at, root, "near", "beneath") == "content"
        assert opened(open_at, root, "out", "beneath") == OUT


def test_only_regular_files_are_read_and_nothing_waits(root: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root/pipe")
    (tmp_path / "root/null").symlink_to("/dev/null")
    for name, text in {
        "pipe": "not a regular",
        "a": "not a regular",
        "null": "symbolic link",
        "near": "symbolic link",
        "absent": "no such file",
    }.items():
        with pytest.raises(SpecError, match=text), regular(root, name):
            pytest.fail(f"{name} was opened")
    with pytest.raises(SpecError, match="out of its"), regular(root, "out", links="beneath"):
        pytest.fail("opened")
    with regular(root, "deep", links="beneath") as fd:
        assert read_bounded(fd, 7, Path("deep")) == b"content"
        with pytest.raises(SpecError, match="more than 6 bytes"):
            read_bounded(fd, 6, Path("deep"))


def test_writing_and_removing_touch_what_has_the_name_and_not_what_it_links_to(
    root: int, tmp_path: Path
) -> None:
    held = Held(root)
    held.write("outside", "ours", 0o600)
    assert (tmp_path / "root/outside").read_text() == "ours"
    held.remove("out")
    held.remove("absent")
    assert not (tmp_path / "root/out").is_symlink()
    assert (tmp_path / "secret").read_text() == "of somebody else"
    for name in ("../secret", "/secret", "folder/b/file", "outer/secret", ".", ""):
        with pytest.raises(OSError):
            held.write(name, "x")
        with pytest.raises(OSError):
            held.remove(name)
    assert (tmp_path / "root/a/b/file").read_text() == "content"


def test_folders_are_made_below_and_not_behind_links(root: int, tmp_path: Path) -> None:
    held = Held(root)
    held.folder("logs/deep", make=True).close()
    assert (tmp_path / "root/logs/deep").is_dir()
    for name in ("outer/made", "folder/made", "../made"):
        with pytest.raises(OSError):
            held.folder(name, make=True)
    assert not (tmp_path / "made").exists() and not (tmp_path / "root/a/made").exists()


def swapping(inside: Path, stop: threading.Event) -> None:
    """Replace a file by a link out, and its directory by one, over and over."""
    while not stop.is_set():
        with contextlib.suppress(OSError):
            (inside / "a/b/file").rename(inside / "a/b/kept")
            (inside / "a/b/file").symlink_to("../../../secret")
            (inside / "a/b").rename(inside / "a/moved")
            (inside / "a/b").symlink_to("../..")
            (inside / "a/b").unlink()
            (inside / "a/moved").rename(inside / "a/b")
            (inside / "a/b/kept").replace(inside / "a/b/file")


@pytest.mark.parametrize("links", ["none", "beneath", "root"])
def test_who_swaps_files_and_links_meanwhile_gains_nothing(
    opener: Opener, root: int, tmp_path: Path, links: Links
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=swapping, args=(tmp_path / "root", stop))
    thread.start()
    seen: set[object] = set()
    try:
        for number in range(3000):
            name = "a/b/file" if number % 2 else "a/b/../b/file"
            seen.add(opened(opener, root, name, links))
    finally:
        stop.set()
        thread.join()
    assert "of somebody else" not in seen
    assert opened(opener, root, "a/b/file", links) == "content"


def test_deleting_and_writing_stay_inside_while_directories_are_swapped(
    root: int, tmp_path: Path
) -> None:
    held, stop = Held(root), threading.Event()
    thread = threading.Thread(target=swapping, args=(tmp_path / "root", stop))
    thread.start()
    try:
        for _ in range(1000):
            with contextlib.suppress(OSError):
                held.write("a/b/secret", "ours")
            with contextlib.suppress(OSError):
                held.remove("a/b/secret")
    finally:
        stop.set()
        thread.join()
    assert (tmp_path / "secret").read_text() == "of somebody else"
