"""``imagekit config``: what it prints, writes, refuses, and keeps private."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from oracles import libvirt_reader, xl_cfg, xm_reader
from support.domains import FACTS, RELATIVE, UUID, make_build
from typer.testing import CliRunner

from imagekit.cli.config import config
from imagekit.domain import model
from imagekit.domain.bootpath import domain_for
from imagekit.errors import CapabilityError, ExistsError, HostError, SpecError, ToolError
from imagekit.toolstacks import explain
from imagekit.toolstacks.output import OutputFile, write_files
from imagekit.toolstacks.registry import emitter_for

TOOLSTACKS = ("xl", "xm", "libvirt")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "build", RELATIVE)


def run(*arguments: str | Path) -> tuple[str, str]:
    app = typer.Typer()
    app.command()(config)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_paths_in_the_config_are_absolute_under_the_build(build: Path) -> None:
    values = xl_cfg.read(run(build)[0])
    assert values["type"] == "pv"
    assert str(values["disk"]).count(f"target={build}/web1.raw") == 1
    direct = xl_cfg.read(run(build, "--mode", "pvh")[0])
    assert direct["kernel"] == f"{build}/vmlinuz"


def test_every_toolstack_prints_its_own_words(build: Path) -> None:
    assert xm_reader.from_xm(run(build, "--toolstack", "xm")[0])["name"] == "web1"
    assert xm_reader.from_sxp(run(build, "--toolstack", "xm", "--sxp")[0])["name"] == "web1"
    text = run(build, "--toolstack", "libvirt", "--mode", "hvm")[0]
    assert libvirt_reader.from_libvirt(text)["mode"] == "hvm"


def test_notes_go_to_standard_error(build: Path) -> None:
    out, err = run(build, "--format", "qcow2")
    assert "note:" not in out
    assert "dom0 attaches it" in err
    assert "MAC" not in err
    assert "nova gives the guest other MAC" in run(build, "--toolstack", "glance")[1]
    words = (build, "--toolstack", "opennebula", "--option", "network=lan")
    assert "the virtual network lan gives the guest other MAC" in run(*words)[1]
    assert "other MAC" not in run(*words, "--option", "mac=true")[1]


def test_files_are_written_whole_and_never_over_others(build: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    listed = run(build, "-o", out)[0]
    (written,) = out.iterdir()
    assert listed.strip() == str(written)
    assert written.name == "web1.pv.xl.cfg"
    assert written.stat().st_mode & 0o777 == 0o644
    written.write_text("mine")
    with pytest.raises(ExistsError):
        run(build, "-o", out)
    assert written.read_text() == "mine"
    run(build, "-o", out, "--force")
    assert xl_cfg.read(written.read_text())["name"] == "web1"
    assert [p.name for p in out.iterdir()] == [written.name]


def test_nothing_is_written_when_one_of_several_files_exists(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ExistsError):
        write_files({"a": OutputFile("x"), "b": OutputFile("y")}, tmp_path, force=False)
    assert not (tmp_path / "a").exists()


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def half(stream: Any) -> None:
        stream.write(b"half")
        raise OSError("disk full")

    with pytest.raises(HostError, match="disk full"):
        write_files({"a": OutputFile(half)}, tmp_path, force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x"])
def test_files_stay_within_the_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        write_files({name: OutputFile("x")}, tmp_path / "d", force=True)


def test_a_dangling_link_counts_as_a_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExistsError):
        write_files({"a": OutputFile("x")}, tmp_path, force=False)
    write_files({"a": OutputFile("x")}, tmp_path, force=True)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("toolstack", TOOLSTACKS)
def test_a_password_comes_from_a_file_and_stays_private(toolstack: str, tmp_path: Path) -> None:
    build = make_build(tmp_path / "b", replace(RELATIVE, graphics=model.Vnc(password="hunter2")))
    assert "hunter2" not in (build / "manifest.json").read_text()
    with pytest.raises(SpecError, match="password"):
        run(build, "--toolstack", toolstack)
    secret = tmp_path / "password"
    secret.write_text("s3cret&1\nignored\n")
    options = ("--toolstack", toolstack, "--vnc-password-file", secret)
    out = tmp_path / "out"
    run(build, *options, "-o", out)
    (written,) = out.iterdir()
    assert written.stat().st_mode & 0o777 == 0o600
    assert "s3cret" in written.read_text()
    assert "s3cret" not in run(build, *options, "--explain")[0]


def test_a_refused_mode_names_the_evidence(tmp_path: Path) -> None:
    from imagekit.domain.facts import Verdict

    build = make_build(tmp_path / "b", replace(RELATIVE, pvh=Verdict(False, ("no note 18",))))
    with pytest.raises(CapabilityError, match="no note 18"):
        run(build, "--mode", "pvh")


@pytest.mark.parametrize(
    "options",
    [
        ("--mode", "PV"),
        ("--boot", "lilo"),
        ("--format", "vmdk"),
        ("--firmware", "coreboot"),
        ("--toolstack", "kvm"),
        ("--sxp",),
        ("--define", "xen:///system"),
    ],
)
def test_unknown_options_are_refused(build: Path, options: tuple[str, ...]) -> None:
    with pytest.raises(SpecError):
        run(build, *options)


@pytest.mark.parametrize(
    "manifest", [None, b"", b"\xff", b"[]", b"{}", b'{"facts": 3}', b"[" * 100_000]
)
def test_a_broken_manifest_is_refused(manifest: bytes | None, tmp_path: Path) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(SpecError) as caught:
        run(tmp_path)
    assert "manifest.json" in (caught.value.where or "")


@pytest.mark.parametrize("toolstack", TOOLSTACKS)
@pytest.mark.parametrize("mode", ["pv", "hvm"])
def test_every_line_that_words_a_field_is_explained(toolstack: str, mode: model.Mode) -> None:
    facts = replace(FACTS, origins={"memory_mib": "web1.yaml:3 memory"})
    domain = domain_for(facts, mode=mode)
    emitter = emitter_for(toolstack)
    lines = emitter.lines(domain, facts)
    assert "".join(f"{line.text}\n" for line in lines) == emitter.text(domain, facts)
    rows = explain.rows(lines, domain, facts)
    for row in rows:
        assert bool(row.why) == bool(row.field), row
    by_field = {row.field: row.why for row in rows}
    assert by_field["memory_mib"] == "web1.yaml:3 memory"
    evidence = "bzImage" if mode == "hvm" else "ELF note ENTRY"
    # An xm config says nothing of PV, which is xend's default.
    assert (toolstack, mode) == ("xm", "pv") or evidence in by_field["mode"]
    table = explain.table(rows)
    assert all(row.line in table for row in rows)


def test_explain_says_why_the_boot_path_was_chosen(build: Path) -> None:
    text = run(build, "--explain")[0]
    (line,) = [one for one in text.splitlines() if one.startswith("bootloader")]
    assert "pygrub reads /boot/grub/grub.cfg" in line


class FakeLibvirt(types.ModuleType):
    """Stands in for libvirt-python: remembers what was defined, or fails."""

    VIR_DOMAIN_DEFINE_VALIDATE = 1

    class libvirtError(Exception):
        pass

    def __init__(self, fails: bool) -> None:
        super().__init__("libvirt")
        self.fails = fails
        self.calls: list[tuple[str, ...]] = []
        self.there = [("other", "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d12")]

    def registerErrorHandler(self, handler: Callable[..., None], context: None) -> None:
        handler(context, "it would print this")

    def open(self, uri: str) -> FakeLibvirt:
        self.calls.append(("open", uri))
        return self

    def defineXMLFlags(self, xml: str, flags: int) -> None:
        assert flags == self.VIR_DOMAIN_DEFINE_VALIDATE
        if self.fails:
            raise self.libvirtError("domain 'web1' already exists")
        self.calls.append(("define", xml))

    def listAllDomains(self) -> list[types.SimpleNamespace]:
        return [
            types.SimpleNamespace(name=lambda n=name: n, UUIDString=lambda u=uuid: u)
            for name, uuid in self.there
        ]

    def close(self) -> None:
        self.calls.append(("close",))


@pytest.mark.parametrize("fails", [False, True])
def test_define_hands_the_printed_xml_to_libvirt(
    fails: bool, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeLibvirt(fails)
    monkeypatch.setitem(sys.modules, "libvirt", fake)
    options = (build, "--toolstack", "libvirt")
    printed = run(*options)[0]
    if fails:
        with pytest.raises(ToolError, match="already exists"):
            run(*options, "--define", "xen:///system")
    else:
        run(*options, "--define", "xen:///system")
        assert ("define", printed) in fake.calls
    assert fake.calls[0] == ("open", "xen:///system")
    assert fake.calls[-1] == ("close",)


def test_define_replaces_a_domain_by_force_only(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeLibvirt(fails=False)
    fake.there.append(("web1", UUID))
    monkeypatch.setitem(sys.modules, "libvirt", fake)
    words = (build, "--toolstack", "libvirt", "--define", "xen:///system")
    with pytest.raises(ExistsError, match="web1") as caught:
        run(*words)
    assert "--force" in str(caught.value.hint)
    assert [call[0] for call in fake.calls] == ["open", "close"]
    run(*words, "--force")
    assert "define" in [call[0] for call in fake.calls]


@pytest.mark.parametrize("clash", [("web1", UUID[:-1] + "0"), ("web0", UUID)])
def test_another_domain_of_that_name_or_uuid_is_not_replaced_by_force(
    clash: tuple[str, str], build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeLibvirt(fails=False)
    fake.there.append(clash)
    monkeypatch.setitem(sys.modules, "libvirt", fake)
    words = (build, "--toolstack", "libvirt", "--define", "xen:///system", "--force")
    with pytest.raises(ExistsError, match="another domain") as caught:
        run(*words)
    assert f"undefine {clash[1]}" in str(caught.value.hint)
    assert [call[0] for call in fake.calls] == ["open", "close"]


def test_define_without_libvirt_names_the_package(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(HostError) as caught:
        run(build, "--toolstack", "libvirt", "--define", "xen:///system")
    assert "python3-libvirt" in (caught.value.hint or "")
