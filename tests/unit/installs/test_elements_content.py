"""Elements of strangers: what of their directories is read, copied and never followed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from oracles.elements import make_element

from imagekit.errors import ImagekitError, SpecError
from imagekit.installs.elements import catalogue, content, hooks, lint, packages
from imagekit.installs.elements.catalogue import Element, load


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "host/secret"
    path.parent.mkdir()
    path.write_text("of root")
    path.chmod(0o755)
    return path


@pytest.fixture
def element(tmp_path: Path) -> Element:
    path = make_element(
        tmp_path / "elements",
        "e",
        {
            "install.d/10-a": "#!/bin/sh\n",
            "static/etc/conf": "conf\n",
            "bin/tool": "#!/bin/sh\n",
            "tests/x": "x",
        },
        deps="dpkg\n",
    )
    return load(path, "spec")


def put_bad(path: Path, kind: str, secret: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
            made.bind(path.name)
    else:
        target = {
            "absolute": str(secret),
            "relative": os.path.relpath(secret, path.parent),
            "folder": str(secret.parent),
            "null": "/dev/null",
            "zero": "/dev/zero",
            "proc": "/proc/self/environ",
            "loop": path.name,
            "back": f"{'../' * 30}etc/passwd",
        }[kind]
        path.symlink_to(target)


KINDS = ("fifo", "socket", "absolute", "relative", "folder", "null", "zero", "proc", "loop", "back")
PLACES = (
    *("element-deps", "element-provides", "pkg-map", "package-installs.yaml", "extra"),
    *("install.d/10-a", "install.d/20-b", "static/etc/conf", "static/a/b/c", "post-install.d"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_leaves_or_waits_is_content(
    tmp_path: Path, element: Element, secret: Path, kind: str, place: str
) -> None:
    put_bad(element.path / place, kind, secret)
    with pytest.raises(SpecError, match=r"elements/e/.*(link|FIFO|leads|regular|device)"):
        element.digest()
    with pytest.raises(SpecError):
        hooks.stage_elements([element], tmp_path)
    (tmp_path / "hooks").mkdir()
    with pytest.raises(SpecError):
        hooks.generate([element], tmp_path / "hooks")
    with pytest.raises(SpecError):
        lint.lint(element, {})
    copied = [p for p in (tmp_path / "hooks").rglob("*") if p.is_file() and not p.is_symlink()]
    assert [p for p in copied if p.read_text() == "of root"] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["element-deps", "element-provides"])
def test_no_neighbour_of_the_elements_makes_a_plan_wait(
    element: Element, secret: Path, kind: str, name: str
) -> None:
    bad = make_element(element.path.parent, "neighbour", {})
    put_bad(bad / name, kind, secret)
    with pytest.raises(SpecError, match="neighbour"):
        catalogue.resolve(["e"], [element.path.parent])
    with pytest.raises(SpecError, match="neighbour"):
        catalogue.find_all([element.path.parent])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["pkg-map", "package-installs.yaml", "package-installs.json"])
def test_no_data_file_makes_a_plan_wait(
    element: Element, secret: Path, kind: str, name: str
) -> None:
    put_bad(element.path / name, kind, secret)
    with pytest.raises(SpecError):
        packages.planned_packages(
            [element], distribution="debian", suite="bookworm", arch="amd64", environment={}
        )


def test_a_directory_of_the_host_is_no_element(element: Element, secret: Path) -> None:
    (element.path.parent / "host").symlink_to(secret.parent)
    with pytest.raises(SpecError, match=r"host: is a link that leads out(.|\n)*element_path"):
        catalogue.find_all([element.path.parent])
    with pytest.raises(SpecError, match="leads out"):
        catalogue.resolve(["e", "host"], [element.path.parent])


def test_links_inside_are_content(tmp_path: Path, element: Element) -> None:
    root = element.path
    (root / "install.d/20-b").symlink_to("10-a")
    (root / "post-install.d").symlink_to("install.d")
    (root / "element-provides").symlink_to("static/etc/conf")
    (root / "static/other").symlink_to("etc")
    (root / "dangling").symlink_to("absent")
    (tmp_path / "elements/alias").symlink_to("e")
    found = catalogue.find_all([tmp_path / "elements"])["e"]
    assert found.provides == ("conf",)
    assert found.scripts("install.d") == found.scripts("post-install.d") == ["10-a", "20-b"]
    hooks.stage_elements([found], tmp_path)
    (tmp_path / "hooks").mkdir()
    hooks.generate([found], tmp_path / "hooks")
    for made in (tmp_path / "e", tmp_path / "hooks"):
        assert (made / "install.d/20-b").read_text() == "#!/bin/sh\n"
        assert os.access(made / "post-install.d/20-b", os.X_OK)
        assert (made / "static/other/conf").read_text() == "conf\n"
        assert not (made / "dangling").is_symlink()
        assert not (made / "tests").exists()


def test_the_copy_keeps_modes_and_times(tmp_path: Path, element: Element) -> None:
    tool = element.path / "bin/tool"
    tool.chmod(0o700)
    os.utime(tool, (1_000_000_000, 1_000_000_000))
    hooks.stage_elements([element], tmp_path)
    status = (tmp_path / "e/bin/tool").stat()
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o700, 1_000_000_000)


def test_large_files_and_elements_of_too_many_are_refused(
    element: Element, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (element.path / "large").open("wb") as stream:
        stream.truncate(content.MAX_FILE + 1)
    with pytest.raises(SpecError, match="64 MiB"):
        element.digest()
    monkeypatch.setattr(content, "MAX_ENTRIES", 3)
    with pytest.raises(SpecError, match="more than 3 files"):
        list(content.entries(element.path))


def test_who_swaps_files_for_links_meanwhile_gets_nothing_of_the_host(
    tmp_path: Path, element: Element, secret: Path
) -> None:
    stop = threading.Event()
    root = element.path

    def swap() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                (root / "static/etc").rename(root / "kept")
                (root / "static/etc").symlink_to(secret.parent)
                (root / "static/etc").unlink()
                (root / "kept").rename(root / "static/etc")
                (root / "static/etc/secret").unlink(missing_ok=True)
                (root / "static/etc/secret").symlink_to(secret)
                (root / "static/etc/secret").unlink()
                (root / "static/etc/secret").write_text("own")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(60):
            target = tmp_path / f"copy{number}"
            target.mkdir()
            with contextlib.suppress(ImagekitError, OSError):
                hooks.stage_elements([element], target)
    finally:
        stop.set()
        thread.join()
    copies = [p for n in range(60) for p in (tmp_path / f"copy{n}").rglob("*")]
    files = [p for p in copies if p.is_file() and not p.is_symlink()]
    assert [p for p in files if p.read_text() == "of root"] == []
