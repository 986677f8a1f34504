"""What the host reads and writes in a tree stays in it, whatever links scripts left there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekit.errors import ImageError, ImagekitError
from imagekit.guest.backends.tree import TreeFiles, tree_files
from imagekit.installs.context import BuildContext
from imagekit.installs.stages import system
from imagekit.installs.stages.system import LOG_TAIL, System, copy_out, last_hook, place_modules
from imagekit.spec.load import load_spec

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Files of the host that nothing may touch or take."""
    path = tmp_path / "host"
    path.mkdir()
    for name in ("modules", "imagekit", "vmlinuz-1", "secret"):
        (path / name).write_text("of the host")
    return path


@pytest.fixture(autouse=True)
def nothing_reached_the_host(host: Path) -> Iterator[None]:
    yield
    assert {p.name: p.read_text() for p in host.iterdir()} == dict.fromkeys(
        ("modules", "imagekit", "vmlinuz-1", "secret"), "of the host"
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    for name in ("etc/initramfs-tools", "boot", "usr/lib"):
        (path / name).mkdir(parents=True)
    return path


@pytest.fixture
def files(tree: Path) -> Iterator[TreeFiles]:
    with tree_files(tree) as opened:
        yield opened


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setattr(system, "chroot", lambda *_args, **_more: None)
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: g\nos: {suite: bookworm}\ninstall: {method: debootstrap}\n")
    return System(BuildContext(load_spec(spec), tmp_path / "out"))


def test_the_settings_of_the_initrd_are_written(
    tmp_path: Path, stage: System, files: TreeFiles, tree: Path
) -> None:
    stage._make_initrd(files, tree, "1", tmp_path / "log")
    config = tree / "etc/initramfs-tools"
    assert (config / "conf.d/imagekit").read_text() == "MODULES=list\nRESUME=none\n"
    assert "xen-blkfront\n" in (config / "modules").read_text()
    assert (config / "conf.d/imagekit").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("etc/initramfs-tools/modules", "HOST/modules"),
        ("etc/initramfs-tools/modules", "../../../host/modules"),
        ("etc/initramfs-tools/conf.d", "HOST"),
        ("etc/initramfs-tools/conf.d", "../../../host"),
        ("etc/initramfs-tools", "HOST"),
        ("etc", "HOST"),
    ],
)
def test_settings_are_not_written_through_links(
    tmp_path: Path,
    stage: System,
    files: TreeFiles,
    tree: Path,
    host: Path,
    place: str,
    target: str,
) -> None:
    path = tree / place
    if path.is_dir():
        path.rename(tree / "aside")
    path.symlink_to(target.replace("HOST", str(host)))
    try:
        stage._make_initrd(files, tree, "1", tmp_path / "log")
    except ImagekitError:
        return
    inside = [p for p in tree.rglob("modules") if p.is_file() and not p.is_symlink()]
    assert len(inside) == 1 and "xen-blkfront" in inside[0].read_text()


@pytest.mark.parametrize("kind", ["file link", "relative link", "folder link", "fifo", "absent"])
def test_a_kernel_is_a_file_of_the_tree(
    tmp_path: Path, files: TreeFiles, tree: Path, host: Path, kind: str
) -> None:
    kernel = tree / "boot/vmlinuz-1"
    if kind == "file link":
        kernel.symlink_to(host / "vmlinuz-1")
    elif kind == "relative link":
        kernel.symlink_to("../../host/vmlinuz-1")
    elif kind == "folder link":
        (tree / "boot").rmdir()
        (tree / "boot").symlink_to(host)
    elif kind == "fifo":
        os.mkfifo(kernel)
    with pytest.raises(ImageError, match="no regular file"):
        copy_out(files, "/boot/vmlinuz-1", tmp_path / "out", required=True)
    copy_out(files, "/boot/vmlinuz-1", tmp_path / "out", required=False)
    assert (tmp_path / "out").read_bytes() == b""


def test_a_kernel_is_copied_out_up_to_a_limit(
    tmp_path: Path, files: TreeFiles, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3 << 20)
    (tree / "boot/vmlinuz-1").write_bytes(content)
    copy_out(files, "/boot/vmlinuz-1", tmp_path / "out", required=True)
    assert (tmp_path / "out").read_bytes() == content
    monkeypatch.setattr(system, "MAX_KERNEL_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="larger"):
        copy_out(files, "/boot/vmlinuz-1", tmp_path / "out2", required=True)


@pytest.mark.parametrize("kind", ["plain", "lib", "modules", "release"])
def test_modules_land_in_the_tree(
    tmp_path: Path, files: TreeFiles, tree: Path, host: Path, kind: str
) -> None:
    modules = tmp_path / "made"
    (modules / "kernel").mkdir(parents=True)
    (modules / "kernel/x.ko").write_text("x")
    (modules / "build").symlink_to("/usr/src")
    if kind == "lib":
        (tree / "usr/lib").rmdir()
        (tree / "usr/lib").symlink_to("/lib")
    elif kind == "modules":
        (tree / "usr/lib/modules").symlink_to(host)
    elif kind == "release":
        (tree / "usr/lib/modules").mkdir()
        (tree / "usr/lib/modules/1").symlink_to(host)
    place_modules(files, tree, modules, "1")
    found = [p for p in tree.rglob("x.ko") if not p.is_symlink()]
    assert [p.read_text() for p in found] == ([] if kind == "release" else ["x"])


def test_the_newest_kernel_of_the_tree_is_taken(
    stage: System, files: TreeFiles, tree: Path
) -> None:
    (tree / "boot/vmlinuz-5.0").write_text("old")
    (tree / "boot/vmlinuz-10.0").write_text("new")
    assert stage._place_kernel(files, tree) == "10.0"


def test_the_hook_that_ran_last_is_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("nothing yet\n")
    assert last_hook(log) is None
    log.write_bytes(
        b"Calling hook udev\nCopying x\nCalling hook zz-mine.sh\n\xff\n"
        b"Calling hook \x1b[2J\nNot Calling hook other\nAdding binary y\n"
    )
    assert last_hook(log) == "zz-mine.sh"
    with log.open("ab") as stream:
        stream.truncate(4 * LOG_TAIL)
    assert last_hook(log) is None
