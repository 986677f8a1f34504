"""What the back end for ext2 to ext4 does is what a kernel does: compared with a tree of the host
that gets the same changes, read back by debugfs and by GRUB's own reader, and judged by e2fsck."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.guest_images import ENV
from oracles.local_tree import LocalTree

from imagekit.errors import GuestError
from imagekit.guest.backends.ext import ExtFiles, Place, ext_files
from imagekit.guest.files import GuestFiles, NeedsAppliance

MIB = 1 << 20
KINDS = {
    "ext4": ("-t", "ext4"),
    "ext4 of small blocks": ("-t", "ext4", "-b", "1024"),
    "ext4 without checksums": ("-t", "ext4", "-O", "^metadata_csum,^64bit"),
    "ext3": ("-t", "ext3"),
    "ext2 with old inodes": ("-t", "ext2", "-I", "128", "-b", "1024"),
}


def run(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*map(str, argv)], capture_output=True, check=check, env=ENV)


def made(image: Path, tree: Path | None, *options: str, size: int = 24 * MIB) -> Path:
    """A file system in a file of ``size`` bytes, with the files of ``tree``."""
    image.touch()
    os.truncate(image, size)
    content = ("-d", str(tree)) if tree is not None else ()
    run("mke2fs", "-q", "-F", "-E", "root_owner=0:0,no_copy_xattrs", *options, *content, image)
    return image


@contextlib.contextmanager
def opened(image: Path, most: int = 64 * MIB) -> Iterator[tuple[ExtFiles, Callable[[], None]]]:
    """The files of a bare file system, and what puts the changes into it."""
    with (
        image.open("r+b") as disk,
        tempfile.TemporaryFile() as written,
        ext_files(disk.fileno(), written.fileno(), most) as files,
    ):
        _table, (place,) = files.scan()
        files.open(place)

        def finish() -> None:
            for offset, length in files.finish():
                os.pwrite(disk.fileno(), os.pread(written.fileno(), length, offset), offset)

        yield files, finish


def judged(image: Path) -> None:
    """e2fsck finds nothing, in all its five passes."""
    done = run("e2fsck", "-f", "-n", image, check=False)
    assert done.returncode == 0, done.stdout.decode()


def content(root: Path) -> dict[str, str]:
    """Kind, permission bits and content of everything below a directory of the host."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        said = stat.filemode(status.st_mode & ~0o7000)
        if path.is_symlink():
            said = f"link to {path.readlink()}"
        elif path.is_file():
            said += f" {path.read_bytes()!r}"
        if path.name != "lost+found":
            found[str(path.relative_to(root))] = said
    return found


def dumped(image: Path, target: Path) -> dict[str, str]:
    """:func:`content` of a file system, by debugfs."""
    target.mkdir()
    run("debugfs", "-R", f'rdump / "{target}"', image)
    return content(target)


def owners(files: GuestFiles) -> dict[str, tuple[int, int, int]]:
    """Mode, user and group of everything but what mke2fs makes."""
    found = {}
    for path in files.below("/"):
        status = files.lstat(path)
        assert status is not None
        if path != "/lost+found":
            found[path] = (status.mode, status.uid, status.gid)
    return found


class Local(LocalTree):
    """A tree whose owners stay where only root may change them."""

    def _chown(self, real: str, uid: int, gid: int) -> None:
        if os.geteuid() == 0:
            super()._chown(real, uid, gid)


NAMES = st.one_of(
    st.sampled_from(["a", "b", "etc", "a b", 'q"uote', "it's", "100%s", "new\nline", "-n", "<2>"]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60).filter(
        lambda name: name not in (".", "..", "lost+found") and len(name.encode()) < 256
    ),
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
CONTENTS = st.one_of(
    st.binary(max_size=200), st.integers(0, 300_000).map(lambda size: b"\0x\xff" * (size // 3))
)
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), PATHS, CONTENTS, st.sampled_from([0o600, 0o644, 0o755])),
    st.tuples(st.just("make_directory"), PATHS),
    st.tuples(st.just("link"), PATHS, st.one_of(PATHS, st.text("x/", min_size=1, max_size=300))),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o700, 0o2755, 0o1777, 0o644])),
)


def perform(files: GuestFiles, operation: tuple[object, ...]) -> bool:
    """Do it; false when it was refused."""
    name, path, *rest = operation
    try:
        match name:
            case "write":
                files.write(str(path), bytes(rest[0]), mode=int(rest[1]))  # type: ignore[call-overload]
            case "chmod":
                real = files.resolve(str(path))
                status = files.lstat(real)
                if status is not None and not status.is_link and real != "/":
                    files.chmod(real, int(rest[0]) | 0o700)  # type: ignore[call-overload]
            case _:
                getattr(files, str(name))(path, *rest)
    except GuestError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OPERATIONS, min_size=1, max_size=25))
def test_it_becomes_what_a_tree_of_the_kernel_becomes(
    kind: str, operations: list[tuple[object, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tree, image = Path(scratch, "tree"), Path(scratch, "image")
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tree / "long").symlink_to("y" * 200)
        tree.chmod(0o755)
        made(image, tree, *KINDS[kind])
        local = Local(tree)
        with opened(image) as (files, finish):
            for operation in operations:
                assert perform(files, operation) == perform(local, operation), operation
            finish()
        judged(image)
        assert dumped(image, Path(scratch, "out")) == content(tree)
        with opened(image) as (files, _finish):
            after, wanted = owners(files), owners(local)
        # What the links of a tree may do, nobody asks.
        assert {path: mode for path, (mode, _, _) in after.items() if not stat.S_ISLNK(mode)} == {
            path: mode for path, (mode, _, _) in wanted.items() if not stat.S_ISLNK(mode)
        }
        if os.geteuid() == 0:
            assert {p: found[1:] for p, found in after.items()} == {
                p: found[1:] for p, found in wanted.items()
            }


@pytest.mark.skipif(not shutil.which("grub-fstest"), reason="missing: grub-fstest (grub-common)")
def test_grubs_own_reader_reads_what_was_written(tmp_path: Path) -> None:
    image = made(tmp_path / "image", None, *KINDS["ext4"])
    data = os.urandom(3 * MIB + 17)
    (tmp_path / "data").write_bytes(data)
    with opened(image) as (files, finish):
        files.write("/boot/grub/grub.cfg", b"set timeout=0\n")
        files.write("/boot/vm linuz", tmp_path / "data")
        files.link("/vmlinuz", "boot/vm linuz")
        finish()
    judged(image)
    for name, expected in (("/boot/grub/grub.cfg", b"set timeout=0\n"), ("/vmlinuz", data)):
        run("grub-fstest", image, "cp", f"(loop0){name}", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == expected


def test_owners_and_rights_are_the_kernels(tmp_path: Path) -> None:
    image = made(tmp_path / "image", None, *KINDS["ext4"])
    with opened(image) as (files, finish):
        files.write("/setuid", b"x", mode=0o6755, owner=(70_000, 4_000_000_000))
        files.chmod(files.make_directory("/shared"), 0o2775)
        files.chown("/shared", (0, 1000))
        files.make_directory("/shared/below")
        files.link("/shared/link", "below")
        files.write("/shared/file", b"")
        finish()
    judged(image)
    with opened(image) as (files, _finish):
        found = owners(files)
    assert found["/setuid"] == (0o106755, 70_000, 4_000_000_000)
    # A directory of a group gives it to what is made in it (mkdir(2)); a file's owner is named.
    assert found["/shared/below"] == (0o042755, 0, 1000)
    assert found["/shared/link"][2] == 1000
    assert found["/shared/file"] == (0o100644, 0, 0)
    with opened(image) as (files, _finish):
        files.chown("/setuid", (1, 1))
        status = files.lstat("/setuid")
        assert status is not None and status.mode == 0o100755


def test_very_many_files_in_one_directory_and_below_each_other(tmp_path: Path) -> None:
    image = made(tmp_path / "image", None, "-t", "ext4", "-N", "8000", size=64 * MIB)
    deep = "/" + "/".join(f"directory-{n:03}" for n in range(60))
    with opened(image) as (files, finish):
        for number in range(1200):
            files.write(f"/many/{'long-' * 20}{number}", b"%d" % number)
        files.write(f"{deep}/file", b"deep")
        files.remove("/many/" + "long-" * 20 + "7")
        finish()
    judged(image)
    with opened(image) as (files, finish):
        assert len(files.names("/many")) == 1199
        assert files.read(f"{deep}/file") == b"deep"
        files.remove("/many")
        files.remove("/directory-000")
        finish()
    judged(image)
    free = run("dumpe2fs", "-h", image).stdout.decode()
    assert "Free inodes:              7" in free  # 8000 less those of the file system itself


def test_an_indexed_directory_stays_sound(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "many").mkdir(parents=True)
    for number in range(1200):
        (tree / f"many/some-longer-name-{number:06}").touch()
    image = made(tmp_path / "image", tree, *KINDS["ext4 of small blocks"])
    run("e2fsck", "-f", "-y", "-D", image, check=False)
    judged(image)
    assert b"Flags: 0x81000" in run("debugfs", "-R", "stat /many", image).stdout
    with opened(image) as (files, finish):
        files.write("/many/some-longer-name-000007", b"in place")
        files.remove("/many/some-longer-name-000008")
        finish()
    judged(image)
    # Neither needs the index to go.
    assert b"Flags: 0x81000" in run("debugfs", "-R", "stat /many", image).stdout
    with opened(image) as (files, finish):
        files.write("/many/new", b"")
        finish()
    judged(image)
    with opened(image) as (files, _finish):
        assert len(files.names("/many")) == 1200


@pytest.mark.parametrize(("what", "size"), [("blocks", 30 * MIB), ("inodes", 0)])
def test_no_room_is_said_and_nothing_written(what: str, size: int, tmp_path: Path) -> None:
    image = made(tmp_path / "image", None, "-t", "ext4", "-N", "16")
    before = image.read_bytes()
    with opened(image) as (files, _finish), pytest.raises(GuestError, match="no room"):
        if what == "blocks":
            files.write("/large", bytes(size))
        for number in range(40):
            files.write(f"/small{number}", b"x")
    assert image.read_bytes() == before


def journal_to_replay(image: Path) -> None:
    run("debugfs", "-w", "-R", "feature needs_recovery", image)


def not_clean(image: Path) -> None:
    run("debugfs", "-w", "-R", "set_super_value state 0", image)


def orphans(image: Path) -> None:
    run("debugfs", "-w", "-R", "set_super_value last_orphan 12", image)


def of_many_disks(image: Path) -> None:
    run("tune2fs", "-O", "quota", image)


@pytest.mark.parametrize("damage", [journal_to_replay, not_clean, orphans, of_many_disks])
def test_what_is_not_clean_or_not_known_is_left_to_the_appliance(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    image = made(tmp_path / "image", None, *KINDS["ext4"])
    damage(image)
    with pytest.raises(NeedsAppliance), opened(image):
        pass


def test_what_the_kernel_would_do_beside_is_left_to_the_appliance(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("listed", "locked", "quiet"):
        (tree / name).mkdir(parents=True)
    (tree / "capable").touch()
    image = made(tmp_path / "image", tree, *KINDS["ext4"])
    # acl(5) in its form on disk (fs/ext4/acl.h): version 1, and the entry of the owner.
    (tmp_path / "acl").write_bytes(bytes.fromhex("01000000 0100 0700 0400 0500 2000 0500"))
    (tmp_path / "capability").write_bytes(bytes.fromhex("0100000200040000" + "00" * 12))
    commands = (
        f"ea_set -r -f {tmp_path}/acl /listed system.posix_acl_default",
        f"ea_set -f {tmp_path}/capability /capable security.capability",
        "set_inode_field /locked flags 0x80010",
        "set_inode_field /quiet flags 0x80080",
    )
    for command in commands:
        run("debugfs", "-w", "-R", command, image)
    judged(image)
    for name, arguments in (
        ("write", ("/listed/file", b"")),
        ("write", ("/locked/file", b"")),
        ("remove", ("/locked",)),
        ("write", ("/quiet/file", b"")),
        ("chown", ("/capable", (1, 1))),
    ):
        with opened(image) as (files, _finish), pytest.raises(NeedsAppliance):
            getattr(files, name)(*arguments)
    # What replaces the file has no capabilities, as with a kernel.
    with opened(image) as (files, finish):
        files.write("/capable", b"", mode=0o755)
        finish()
    judged(image)
    assert b"capability" not in run("debugfs", "-R", "ea_list /capable", image).stdout


def test_more_than_is_allowed_is_left_to_the_appliance(tmp_path: Path) -> None:
    image = made(tmp_path / "image", None, *KINDS["ext4"])
    with opened(image, most=MIB) as (files, finish), pytest.raises(NeedsAppliance):
        files.write("/large", b"x" * (2 * MIB))
        finish()


def test_names_below_another_file_system_are_left_to_the_appliance(tmp_path: Path) -> None:
    image = made(tmp_path / "image", None, *KINDS["ext4"])
    with opened(image) as (files, _finish):
        files.elsewhere = ("/boot",)
        files.write("/bootstrap", b"")
        with pytest.raises(NeedsAppliance, match="/boot is another"):
            files.write("/boot/grub/grub.cfg", b"")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=12))
def test_a_damaged_file_system_is_never_written(damage: list[tuple[int, int]]) -> None:
    """Whatever is on the disk, the disk is not written, and an error is one of ours."""
    with tempfile.TemporaryDirectory() as scratch:
        tree, image = Path(scratch, "tree"), Path(scratch, "image")
        (tree / "etc/deep").mkdir(parents=True)
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tree / "link").symlink_to("/etc/passwd")
        made(image, tree, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum", size=4 * MIB)
        before = bytearray(image.read_bytes())
        used = [at for at in range(1024, len(before)) if before[at]]
        for place, value in damage:
            before[used[place % len(used)]] = value
        image.write_bytes(before)
        with contextlib.suppress(NeedsAppliance, GuestError), opened(image) as (files, _finish):
            files.write("/etc/passwd", b"x" * 5000)
            files.make_directory("/etc/more/and/more")
            files.remove("/etc/deep")
            files.link("/link", "elsewhere")
            files.finish()
        assert image.read_bytes() == before


def test_the_place_is_checked(tmp_path: Path) -> None:
    image = made(tmp_path / "image", None, *KINDS["ext4"])
    with opened(image) as (files, _finish):
        for start, size in ((MIB, 24 * MIB), (-MIB, 24 * MIB), (0, 1 << 50)):
            with pytest.raises(NeedsAppliance):
                files.open(Place("1", 1, start, size, "ext"))
