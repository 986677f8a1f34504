"""Publishing: what is written, replaced, kept and removed, and what clients read in it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import (
    BusyError,
    ExistsError,
    ImageError,
    ImagekitError,
    SpecError,
    VerificationError,
)
from imagekit.host.exclusive import exclusive
from imagekit.netboot import render, tree
from imagekit.netboot.netguest import NetbootGuest
from imagekit.netboot.publish import Site, flip, publish
from imagekit.pypxeboot import ipxe, pxelinux
from imagekit.pypxeboot.entry import BootEntry, LocalBoot

MAC = "00:16:3e:10:20:30"
HTTP = "http://192.0.2.1:8080"


def _nothing(name: str) -> str:
    raise KeyError(name)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("linux", "initrd", "other")}
    paths["linux"].write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    paths["other"].write_bytes(b"\x7fELF" + bytes(100))
    paths["initrd"].write_bytes(b"initrd")
    return paths


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "root", http=HTTP)


def guest(files: dict[str, Path], name: str = "web1", mac: str = MAC, **more: Any) -> NetbootGuest:
    values = {"args": "auto url={answers} console=hvc0", "answers": "d-i x\n", **more}
    return NetbootGuest(name, mac, files["linux"], files["initrd"], **values)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def entry(root: Path, name: str) -> BootEntry | LocalBoot:
    return pxelinux.choose(pxelinux.parse((root / "tftp/pxelinux.cfg" / name).read_text()))


def answers_of(root: Path) -> list[Path]:
    return sorted((root / "answers").rglob("*.cfg"))


def test_every_config_leads_to_the_same_kernel_and_answers(
    site: Site, files: dict[str, Path]
) -> None:
    publish(site, [guest(files, ip="192.0.2.91")])
    root = site.root
    by_mac = entry(root, "01-00-16-3e-10-20-30")
    assert by_mac == entry(root, "C000025B")
    assert isinstance(by_mac, BootEntry)
    assert (root / "tftp" / by_mac.kernel).read_bytes() == files["linux"].read_bytes()
    assert (root / "tftp" / by_mac.initrds[0]).read_bytes() == b"initrd"
    url = next(word[4:] for word in by_mac.args.split() if word.startswith("url="))
    [answers] = answers_of(root)
    assert url == f"{HTTP}/{answers.relative_to(root)}"
    assert answers.read_text() == "d-i x\n"
    assert answers.stat().st_mode & 0o777 == 0o600
    settings = ipxe.machine_settings(mac=bytes.fromhex("00163e102030"))

    def load(name: str) -> str:
        return (root / "tftp" / name).read_text()

    script = ipxe.run(load("boot.ipxe"), settings, load, where="boot.ipxe")
    assert isinstance(script, BootEntry)
    assert script.kernel == f"{HTTP}/{by_mac.kernel}"
    assert script.args == by_mac.args + " initrd=initrd"


def test_same_input_again_changes_nothing(site: Site, files: dict[str, Path]) -> None:
    publish(site, [guest(files)])
    before = snapshot(site.root)
    changes = publish(site, [guest(files)])
    assert (changes.written, changes.removed) == ((), ())
    assert snapshot(site.root) == before


def test_changed_mac_moves_the_configs_and_leaves_nothing(
    site: Site, files: dict[str, Path]
) -> None:
    publish(site, [guest(files)])
    publish(site, [guest(files, mac="00:16:3e:10:20:31")])
    names = set(snapshot(site.root))
    assert not [name for name in names if "10-20-30" in name]
    assert [name for name in names if "10-20-31" in name]


def test_other_guests_stay_unless_pruned(site: Site, files: dict[str, Path]) -> None:
    publish(site, [guest(files)])
    publish(site, [guest(files, "web2", "00:16:3e:10:20:31")])
    assert (site.root / "tftp/pxelinux.cfg/01-00-16-3e-10-20-30").exists()
    publish(site, [guest(files, "web2", "00:16:3e:10:20:31")], prune=True)
    assert not (site.root / "tftp/pxelinux.cfg/01-00-16-3e-10-20-30").exists()
    publish(site, [], prune=True)
    assert set(snapshot(site.root)) == {"state.json"}


def test_foreign_files_are_neither_replaced_nor_removed(site: Site, files: dict[str, Path]) -> None:
    publish(site, [guest(files)])
    foreign = site.root / "tftp/pxelinux.cfg/default"
    foreign.write_text("mine")
    edited = site.root / "tftp/pxelinux.cfg/01-00-16-3e-10-20-30"
    edited.write_text("edited")
    with pytest.raises(ExistsError, match="not written by imagekit, or was changed"):
        publish(site, [guest(files)])
    changes = publish(site, [], prune=True)
    assert changes.kept == ("tftp/pxelinux.cfg/01-00-16-3e-10-20-30",)
    assert foreign.read_text() == "mine"
    assert edited.read_text() == "edited"


def test_foreign_file_in_the_way_stops_everything(site: Site, files: dict[str, Path]) -> None:
    way = site.root / "tftp/pxelinux.cfg/01-00-16-3e-10-20-30"
    way.parent.mkdir(parents=True)
    way.symlink_to("/etc/passwd")
    with pytest.raises(ExistsError):
        publish(site, [guest(files)])
    assert [path for path in site.root.rglob("*") if path.is_file() and path != way] == []


def test_crash_in_the_middle_is_mended_by_the_next_run(
    site: Site, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = tree.put, iter(range(100))

    def failing(path: Path, content: tree.Content) -> None:
        if next(count) == 4:
            raise OSError("power cut")
        real(path, content)

    monkeypatch.setattr(tree, "put", failing)
    with pytest.raises(OSError, match="power cut"):
        publish(site, [guest(files)])
    monkeypatch.setattr(tree, "put", real)
    publish(site, [guest(files)])
    assert isinstance(entry(site.root, "01-00-16-3e-10-20-30"), BootEntry)
    assert len(answers_of(site.root)) == 1
    assert not list(site.root.rglob(".imagekit-*"))


def test_flip_and_back(site: Site, files: dict[str, Path]) -> None:
    publish(site, [guest(files)])
    [first] = answers_of(site.root)
    flip(site.root, "web1", "local")
    assert isinstance(entry(site.root, "01-00-16-3e-10-20-30"), LocalBoot)
    publish(site, [guest(files)])
    assert isinstance(entry(site.root, "01-00-16-3e-10-20-30"), LocalBoot)
    flip(site.root, "web1", "install")
    found = entry(site.root, "01-00-16-3e-10-20-30")
    assert isinstance(found, BootEntry)
    [second] = answers_of(site.root)
    assert second != first
    assert second.read_text() == "d-i x\n"
    assert str(second.relative_to(site.root)) in found.args
    with pytest.raises(SpecError, match="no guest 'web9'"):
        flip(site.root, "web9", "local")


def test_used_answers_get_a_new_address_at_the_next_publish(
    site: Site, files: dict[str, Path]
) -> None:
    publish(site, [guest(files)])
    [first] = answers_of(site.root)
    (site.root / "used").mkdir()
    (site.root / "used" / first.parent.name).touch()
    publish(site, [guest(files)])
    assert first not in answers_of(site.root)


def test_answers_may_be_rendered_with_their_own_urls(site: Site, files: dict[str, Path]) -> None:
    seen = []

    def rendered(url: str, done: str) -> str:
        seen.append((url, done))
        return f"d-i preseed/late_command string wget -q {done}\n"

    publish(site, [guest(files, answers=rendered)])
    [answers] = answers_of(site.root)
    assert seen[-1][0].endswith(str(answers.relative_to(site.root)))
    assert seen[-1][1] in answers.read_text()
    before = snapshot(site.root)
    publish(site, [guest(files, answers=rendered)])
    assert snapshot(site.root) == before


def test_answers_without_secrets_have_a_plain_address(site: Site, files: dict[str, Path]) -> None:
    publish(site, [guest(files, secret=False)])
    assert answers_of(site.root) == [site.root / "answers/web1/preseed.cfg"]


@pytest.mark.parametrize(
    "change",
    [
        {"mac": "01:00:5e:00:00:01"}, {"name": "../x"}, {"name": ""}, {"ip": "256.1.1.1"},
        {"args": "a\nlabel x"}, {"args": "initrd=x"}, {"args": "${net0/mac}"}, {"args": "a || b"},
        {"answers_name": "../../x"}, {"answers": None}, {"args": "x" * 3000}, {"args": "é"},
    ],
)  # fmt: skip
def test_guests_that_cannot_be_published_are_refused(
    site: Site, files: dict[str, Path], change: dict[str, None] | dict[str, str]
) -> None:
    with pytest.raises(SpecError):
        publish(site, [guest(files, **change)])


def test_clashes_are_refused_and_change_nothing(site: Site, files: dict[str, Path]) -> None:
    publish(site, [guest(files)])
    before = snapshot(site.root)
    with pytest.raises(SpecError, match="same mac"):
        publish(site, [guest(files, "web2")])
    with pytest.raises(SpecError, match="twice"):
        publish(site, [guest(files, "web2", "00:16:3e:00:00:02")] * 2)
    assert snapshot(site.root) == before


def test_images_are_verified(site: Site, files: dict[str, Path]) -> None:
    with pytest.raises(VerificationError):
        publish(site, [guest(files, kernel_sha256="0" * 64)])
    files["linux"].write_bytes(b"<html>no kernel here</html>" * 100)
    with pytest.raises(ImageError):
        publish(site, [guest(files)])
    assert not (site.root / "tftp").exists()


def test_another_imagekit_at_work_is_waited_for_by_nobody(
    site: Site, files: dict[str, Path]
) -> None:
    with exclusive(site.root), pytest.raises(BusyError):
        publish(site, [guest(files)])


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9}', "null", '{"version":1,"guests":3}'])
def test_damaged_state_is_an_error_and_not_a_crash(
    site: Site, files: dict[str, Path], text: str
) -> None:
    site.root.mkdir()
    (site.root / "state.json").write_text(text)
    with pytest.raises(SpecError):
        publish(site, [guest(files)])


def test_tftp_prefix_stands_before_every_name(tmp_path: Path, files: dict[str, Path]) -> None:
    site = Site(tmp_path / "r", "pxe/site", HTTP)
    publish(site, [guest(files)])
    found = entry(site.root, "01-00-16-3e-10-20-30")
    assert isinstance(found, BootEntry)
    assert found.kernel.startswith("pxe/site/images/")
    grub = (site.root / "tftp/grub/grub.cfg-01-00-16-3e-10-20-30").read_text()
    assert f"linux /{found.kernel} " in grub


ARGS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)


@given(ARGS)
def test_arguments_reach_every_loader_unchanged_or_are_refused(args: str) -> None:
    args = " ".join(args.split())
    try:
        NetbootGuest("a", MAC, Path("/k"), args=args)
        facts = render.BootFacts("install", "00-16", "", "images/k", "images/i", args, "", HTTP)
        found = pxelinux.choose(pxelinux.parse(render.pxelinux_config(facts)))
    except ImagekitError:
        return
    assert isinstance(found, BootEntry)
    assert (found.args, found.initrds) == (args, ("images/i",))
    script = ipxe.run(render.ipxe_script(facts), {}, _nothing, where="x")
    assert isinstance(script, BootEntry)
    assert script.args.removesuffix("initrd=i").strip() == args
    linux = render.grub_config(facts).splitlines()[1]
    assert shlex.split(linux)[2:] == args.split()


def test_state_keeps_no_answers(site: Site, files: dict[str, Path]) -> None:
    publish(site, [guest(files, answers="d-i passwd/root-password string hunter2\n")])
    assert "hunter2" not in (site.root / "state.json").read_text()
    assert (site.root / "state.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((site.root / "state.json").read_text())["version"] == 1


@pytest.mark.parametrize("kind", ["linux", "initrd"])
@pytest.mark.parametrize("swap", ["replaced", "rewritten"])
def test_a_pinned_file_that_is_swapped_after_the_check_is_not_published(
    site: Site, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, swap: str
) -> None:
    pin = tree.file_digest(files[kind])
    evil = files[kind].read_bytes() + b"evil"
    apply = tree.apply

    def applied(*args: Any) -> tree.Changes:
        if swap == "replaced":
            files[kind].unlink()
        files[kind].write_bytes(evil)
        return apply(*args)

    monkeypatch.setattr(tree, "apply", applied)
    with pytest.raises(VerificationError, match="changed while"):
        pinned = {"kernel_sha256" if kind == "linux" else "initrd_sha256": pin}
        publish(site, [guest(files, **pinned)])
    assert [p for p in site.root.rglob("*") if p.is_file() and p.read_bytes() == evil] == []
    assert not list(site.root.rglob("01-*"))


def test_a_kernel_that_is_a_pipe_is_refused_at_once(site: Site, files: dict[str, Path]) -> None:
    files["linux"].unlink()
    os.mkfifo(files["linux"])
    with pytest.raises(SpecError, match="neither a file"):
        publish(site, [guest(files)])
