"""A second user who swaps files, links, directories and second names beside imagekit gains nothing.

IMAGEKIT_RACE_ROUNDS rounds of the operations that are cheap, fewer of those that start programs.
What would happen to a program that checks a name and opens it then is shown first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.racer import MARK, Prey, Racer, Rewritten, Witnesses, contents_below, racing
from support.strangers import STRANGER, given_away, needs_root, strangers_folder

from imagekit.disk.convert import convert
from imagekit.disk.extents import copy_sparse, opened
from imagekit.errors import ImagekitError
from imagekit.guest.backends.tree import tree_files
from imagekit.guest.changes import Copy
from imagekit.guest.hostcopy import copy
from imagekit.guest.working import readable_copy, working_copy
from imagekit.host.exclusive import exclusive
from imagekit.host.outfile import os_errors, replacing
from imagekit.host.strangers import require_kept_file, require_private_path
from imagekit.netboot.netguest import NetbootGuest
from imagekit.netboot.publish import Site, publish
from imagekit.pipeline.build_directory import BuildDirectory
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.recovery.container import read_container, write_container
from imagekit.toolstacks.output import OutputFile, write_files

pytestmark = [
    pytest.mark.real,
    pytest.mark.races,
    needs_root,
    pytest.mark.skipif(not shutil.which("qemu-io"), reason="missing: qemu-io, of qemu-utils"),
]
ROUNDS = int(os.environ.get("IMAGEKIT_RACE_ROUNDS", "200"))
SIZE = 1 << 20
GOOD = bytes(0x202) + b"HdrS" + bytes(SIZE - 0x206)
"""A disk, and by these four letters a kernel (Linux, Documentation/arch/x86/boot.rst)."""
SECRET = GOOD[:0x300] + MARK * 64
SECRET += bytes(SIZE - len(SECRET))


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    with workspace(Events()) as made:
        yield made


@pytest.fixture
def witnesses(tmp_path: Path) -> Witnesses:
    found = Witnesses(tmp_path / "root")
    for name in ("disk.raw", "disk.qcow2", "bundle", "made", "sub/disk.raw", "sub/made"):
        found.file(name, SECRET)
    found.folder.chmod(0o755)
    return found


@pytest.fixture
def theirs(tmp_path: Path, witnesses: Witnesses) -> Path:
    """The stranger's directory: good files, and what they are swapped against."""
    folder = strangers_folder(tmp_path / "theirs")
    secret = witnesses.folder / "disk.raw"
    for name in ("disk.raw", "own.raw"):
        (folder / name).write_bytes(GOOD)
    (folder / "bundle").write_bytes(b"")
    write_container(folder / "bundle", {"name": "g"}, [("a", b"a" * 2000)], None, overwrite=True)
    (folder / "sub").mkdir()
    (folder / "sub/disk.raw").write_bytes(GOOD)
    for name in ("disk.raw", "own.raw", "bundle", "sub", "sub/disk.raw"):
        given_away(folder / name)
    for name in ("second-disk.raw", "second-bundle"):
        os.link(secret, folder / name)
    os.mkfifo(folder / "pipe")
    (folder / "directory").mkdir()
    return folder


PREY_FILES = ("second-disk.raw", "pipe", "directory")


@contextlib.contextmanager
def beside(theirs: Path, witnesses: Witnesses) -> Iterator[Racer]:
    """The racer, for whom every kind of name is prepared."""
    root = witnesses.folder
    prey = [
        Prey("disk.raw", PREY_FILES, (root / "disk.raw",)),
        Prey("bundle", ("second-bundle",), (root / "bundle",)),
        Prey("made", (), (root / "made",)),
        Prey("sub", (), (root / "sub",)),
        Prey("site", (), (root / "sub",)),
    ]
    witnesses.watch()
    with racing(theirs, prey) as racer:
        yield racer


Action = Callable[[int], object]


def repeated(
    action: Action, rounds: int, witnesses: Witnesses, racer: Racer, outputs: Path
) -> Counter[str]:
    """How often ``action`` was done, and how often it was refused; all it may do is that."""
    told: Counter[str] = Counter()
    for number in range(rounds):
        try:
            action(number)
        except ImagekitError as error:
            told["refused"] += 1
            assert MARK.decode() not in str(error)
        else:
            told["done"] += 1
        witnesses.require_untouched()
        if number % 50 == 49:
            _nothing_leaked(outputs)
    racer.require_running()
    _nothing_leaked(outputs)
    witnesses.require_untouched(contents=True)
    print(f"{told['done']} done, {told['refused']} refused, {racer.swaps} swaps")
    return told


def _nothing_leaked(outputs: Path) -> None:
    for path, content in contents_below(outputs):
        assert MARK not in content, path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


# What a program does that trusts a name after it looked at it.
SLOW = 0.005
"""Seconds at most."""


def naive_read(path: Path) -> bytes:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != STRANGER or status.st_nlink != 1:
        raise ImagekitError("is not theirs alone")
    # A pipe would make it wait for ever, which is a win as well, but no end of a test.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        return stream.read(len(SECRET))


def naive_write(path: Path) -> None:
    part = path.with_name(".naive.part")
    with part.open("xb") as stream:
        stream.write(b"begun")
    until = time.monotonic() + SLOW
    while time.monotonic() < until and not part.is_symlink():
        pass  # as long as a program takes to start
    try:
        with part.open("r+b") as stream:  # as a program does that is given its name
            stream.write(b"overwritten")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@pytest.mark.parametrize("loses", ["a secret", "a file"])
def test_the_racer_wins_against_a_program_that_trusts_names(
    theirs: Path, witnesses: Witnesses, loses: str
) -> None:
    with beside(theirs, witnesses) as racer:
        for _ in range(100_000):
            with contextlib.suppress(ImagekitError, OSError):
                if loses == "a secret":
                    if MARK in naive_read(theirs / "disk.raw"):
                        return
                else:
                    naive_write(theirs / "result")
                    if (theirs / "result").is_symlink():
                        (theirs / "result").unlink()
            if loses == "a file" and any(
                path.read_bytes().startswith(b"overwritten")
                for path in (witnesses.folder / "disk.raw", witnesses.folder / "made")
            ):
                return
        pytest.fail(f"the racer never won, in {racer.swaps} swaps")


def reading(theirs: Path, outputs: Path, space: Workspace) -> dict[str, Action]:
    def read(path: Path) -> None:
        with opened(path) as fd:
            (outputs / "read").write_bytes(os.pread(fd, 4096, 0))

    def kept(_: int) -> None:
        require_kept_file(theirs / "disk.raw", "")

    return {
        "open a source": lambda _: read(theirs / "disk.raw"),
        "open a source in a directory that is swapped": lambda _: read(theirs / "sub/disk.raw"),
        "copy a disk": lambda _: copy_sparse(theirs / "disk.raw", outputs / "c", overwrite=True),
        "verify a bundle": lambda _: read_container(theirs / "bundle"),
        "trust a file of theirs": kept,
    }


def writing(theirs: Path, outputs: Path, space: Workspace) -> dict[str, Action]:
    def file(path: Path) -> None:
        with replacing(path, overwrite=True) as part:
            part.write_bytes(b"ours")
            part.chmod(0o644)

    def build(path: Path) -> None:
        with os_errors(path), BuildDirectory(path).held(make=True) as held:
            held.write("manifest.json", "{}")
            held.remove("made")

    def lock(_: int) -> None:
        with exclusive(theirs / "sub/lock"):
            require_private_path(theirs / "sub/lock", "")

    def configs(_: int) -> None:
        write_files({"c/web.xl": OutputFile("x"), "d": OutputFile("y")}, theirs / "sub", force=True)

    return {
        "write a file": lambda _: file(theirs / "made"),
        "write a file in a directory that is swapped": lambda _: file(theirs / "sub/made"),
        "deliver a build": lambda _: build(theirs / "sub"),
        "deliver a new build": lambda _: build(theirs / "sub/build/new"),
        "lock a directory": lock,
        "write configs": configs,
        "make a bundle": lambda _: write_container(
            theirs / "made", {"n": 1}, [("a", b"a")], None, overwrite=True
        ),
    }


CHEAP = [
    *("open a source", "open a source in a directory that is swapped", "copy a disk"),
    *("verify a bundle", "trust a file of theirs", "write a file"),
    *("write a file in a directory that is swapped", "deliver a build", "deliver a new build"),
    *("lock a directory", "write configs", "make a bundle"),
]
NEVER = ("trust a file of theirs", "deliver a build", "lock a directory")
"""Refused whatever the racer does: the directory is theirs."""


@pytest.mark.parametrize("name", CHEAP)
def test_a_racer_reads_and_writes_nothing_of_root_s(
    name: str, theirs: Path, witnesses: Witnesses, outputs: Path, space: Workspace
) -> None:
    (theirs / "made").write_bytes(b"theirs")
    (theirs / "site").mkdir()
    given_away(theirs / "made")
    action = {**reading(theirs, outputs, space), **writing(theirs, outputs, space)}[name]
    with beside(theirs, witnesses) as racer:
        told = repeated(action, ROUNDS, witnesses, racer, outputs)
    assert (told["done"] == 0) == (name in NEVER)


def qcow2(path: Path, *more: str | Path) -> Path:
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", *more, path, str(SIZE)]
    subprocess.run(argv, check=True)
    return path


@pytest.fixture
def two_heads(theirs: Path, witnesses: Witnesses, tmp_path: Path) -> list[Rewritten]:
    """A qcow2 that is good and stands on a file of root's, by turns, and an image that is raw and
    such a qcow2."""
    good = qcow2(theirs / "disk.qcow2")
    given_away(good)
    evil = qcow2(tmp_path / "evil", "-F", "raw", "-b", witnesses.folder / "disk.raw")
    heads = evil.read_bytes()[:512], good.read_bytes()[:512]
    return [Rewritten("disk.qcow2", heads), Rewritten("own.raw", (heads[0], GOOD[:512]))]


def programs(theirs: Path, outputs: Path, space: Workspace) -> dict[str, Action]:
    numbers = itertools.count()

    def inject(name: str, image_format: str) -> None:
        with working_copy(theirs / name, image_format, workspace=space) as copy:
            argv = ["qemu-io", "-f", copy.format, "-c", "write -P 0x42 65536 4096", str(copy.path)]
            subprocess.run(argv, check=True, capture_output=True)
            copy.commit()

    def inspect(name: str, image_format: str) -> None:
        with readable_copy(theirs / name, image_format, workspace=space) as copy:
            raw = outputs / "shown"
            argv = ["qemu-img", "convert", "-f", copy.format, "-O", "raw", str(copy.path), str(raw)]
            subprocess.run(argv, check=True, capture_output=True)

    def convert_one(source: str, image_format: str, target: Path) -> None:
        convert(
            theirs / source,
            target,
            source_format=image_format,
            target_format=("raw", "qcow2", "vhd")[next(numbers) % 3],
            overwrite=True,
        )

    (outputs / "guest/etc").mkdir(parents=True)
    (outputs / "guest/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (outputs / "guest/etc/group").write_text("root:x:0:\n")

    def put(source: Path) -> None:
        with tree_files(outputs / "guest") as guest:
            copy(Copy(source, "/a"), guest)

    def netboot(root: Path) -> None:
        guest = NetbootGuest("web1", "00:16:3e:10:20:30", theirs / "disk.raw", None, args="x")
        publish(Site(root), [guest])

    return {
        "inject into a raw disk": lambda _: inject("disk.raw", "raw"),
        "inject into one that becomes a qcow2": lambda _: inject("own.raw", "raw"),
        "inject into a qcow2": lambda _: inject("disk.qcow2", "qcow2"),
        "inspect a qcow2": lambda _: inspect("disk.qcow2", "qcow2"),
        "inspect a raw disk": lambda _: inspect("disk.raw", "raw"),
        "convert a qcow2": lambda _: convert_one("disk.qcow2", "qcow2", outputs / "made"),
        "convert a raw disk": lambda _: convert_one("disk.raw", "raw", outputs / "made"),
        "convert into their directory": lambda _: convert_one("own.raw", "raw", theirs / "made"),
        "copy a file into a guest": lambda _: put(theirs / "disk.raw"),
        "copy a tree into a guest": lambda _: put(theirs / "sub"),
        "publish a kernel of theirs": lambda _: netboot(outputs / "site"),
        "publish into their directory": lambda _: netboot(theirs / "site"),
    }


STARTS_PROGRAMS = [
    *("copy a file into a guest", "copy a tree into a guest"),
    *("inject into a raw disk", "inject into one that becomes a qcow2", "inject into a qcow2"),
    *("inspect a qcow2", "inspect a raw disk", "convert a qcow2", "convert a raw disk"),
    *("convert into their directory", "publish a kernel of theirs", "publish into their directory"),
]


@pytest.mark.parametrize("name", STARTS_PROGRAMS)
def test_a_racer_gains_nothing_by_the_programs_that_are_started(
    name: str,
    theirs: Path,
    witnesses: Witnesses,
    outputs: Path,
    space: Workspace,
    two_heads: list[Rewritten],
) -> None:
    (theirs / "site").mkdir()
    (theirs / "made").write_bytes(b"theirs")
    given_away(theirs / "made")
    root = witnesses.folder
    prey = [
        Prey("disk.raw", ("second-disk.raw",), (root / "disk.raw",)),
        Prey("made", (), (root / "made",)),
        Prey("sub", (), (root / "sub",)),
        Prey("site", (), (root / "sub",)),
    ]
    witnesses.watch()
    with racing(theirs, prey, two_heads) as racer:
        action = programs(theirs, outputs, space)[name]
        told = repeated(action, max(ROUNDS // 50, 3), witnesses, racer, outputs)
    if name == "publish into their directory":
        assert told["done"] == 0
