"""Who vouches for a bundle is asked before anything of it takes effect, and said afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.domains import RELATIVE
from typer.testing import CliRunner

from imagekit.cli.main import make_app
from imagekit.domain.parts import Nic
from imagekit.errors import ImagekitError, SpecError, VerificationError
from imagekit.host.signing import sign_ssh
from imagekit.pipeline.events import Event, Events
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.recovery import unpacked
from imagekit.recovery.about import About
from imagekit.recovery.container import read_container, write_container
from imagekit.recovery.hostroot import acting_as_root
from imagekit.recovery.reinstall import emit_script, reinstall, steps
from imagekit.recovery.sealing import Unlock
from imagekit.recovery.target import Wish
from imagekit.recovery.unpacked import IMAGE, Bundle, BundledSpec, Recipe, open_bundle
from imagekit.spec.load import load_spec
from imagekit.spec.lock import Lock
from imagekit.spec.manifest import MANIFEST, Manifest, Section

UNSIGNED = Path(__file__).parents[1] / "spec/manifests/guest.bundle"


@pytest.fixture(autouse=True)
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    with workspace(Events()) as made:
        yield made


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the keys mine and other, public ones with .pub."""
    base = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)]
        subprocess.run(argv, check=True)
    return base


@pytest.fixture(scope="module")
def signed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten(tmp_path_factory.mktemp("bundle"), keys / "mine", {})


def rewritten(base: Path, key: Path | None, facts: dict[str, Any]) -> Path:
    """The unsigned bundle with other ``facts``, signed if there is a ``key``."""
    content = base / "content"
    content.mkdir()
    checked = read_container(UNSIGNED, content)
    manifest = json.loads((content / MANIFEST).read_text())
    manifest["facts"] |= facts
    (content / MANIFEST).write_text(json.dumps(manifest))
    sources: list[tuple[str, Path | bytes]] = [(m.name, content / m.name) for m in checked.members]
    sign = (lambda data: sign_ssh(data, key, base)) if key else None
    write_container(base / "b.bundle", checked.about, sources, sign)
    return base / "b.bundle"


def command(*words: str | Path) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(make_app(["reinstall"]), ["reinstall", *map(str, words)])
    return done.output, done.exception


@pytest.mark.parametrize("which", ["signed", "unsigned"])
@pytest.mark.parametrize("more", [(), ("--unpack",), ("--emit-script",), ("--start",), ("--json",)])
def test_a_bundle_of_nobody_in_particular_is_refused_and_both_ways_are_named(
    which: str, more: tuple[str, ...], signed: Path, tmp_path: Path
) -> None:
    bundle = signed if which == "signed" else UNSIGNED
    output, error = command(bundle, "-o", tmp_path / "out", *more)
    assert isinstance(error, VerificationError)
    assert error.where == str(bundle)
    assert error.hint is not None
    assert "--trust" in error.hint and "--insecure-unsigned" in error.hint
    assert not (tmp_path / "out").exists() and output == ""


def test_nothing_that_is_sealed_is_opened_before(
    tmp_path: Path, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "unseal", lambda *_: pytest.fail("was unsealed"))
    about = About(kind="guest", name="web1", imagekit="0", sealed=["secrets.json.gpg"])
    path = tmp_path / "b"
    write_container(path, about.to_json(), [("secrets.json.gpg", b"x")], None)
    with pytest.raises(VerificationError, match="nobody vouches"):
        open_bundle(path, None, workspace=space, keys=Unlock())


def test_who_is_trusted_decides(signed: Path, keys: Path, tmp_path: Path) -> None:
    _, error = command(signed, "-o", tmp_path / "out", "--trust", keys / "other.pub")
    assert isinstance(error, VerificationError)
    _, error = command(UNSIGNED, "-o", tmp_path / "out", "--trust", keys / "mine.pub")
    assert isinstance(error, VerificationError) and error.what == "is not signed"
    both = ("--trust", keys / "mine.pub", "--insecure-unsigned")
    for bundle in (signed, UNSIGNED):
        _, error = command(bundle, "-o", tmp_path / "out", *both)
        assert isinstance(error, SpecError)
    assert not (tmp_path / "out").exists()
    output, error = command(signed, "-o", tmp_path / "out", "--trust", keys / "mine.pub")
    assert error is None and "nobody vouches" not in output
    report = json.loads((tmp_path / "out/reinstall-report.json").read_text())
    assert report["signature"] == "good"
    assert not any("nobody vouches" in note for note in report["notes"])


@pytest.mark.parametrize("which", ["signed", "unsigned"])
def test_what_is_taken_from_anybody_says_so_again(which: str, signed: Path, tmp_path: Path) -> None:
    bundle = signed if which == "signed" else UNSIGNED
    output, error = command(bundle, "-o", tmp_path / "out", "--insecure-unsigned")
    assert error is None and "note: nobody vouches for the bundle" in output
    report = json.loads((tmp_path / "out/reinstall-report.json").read_text())
    assert report["signature"] == "not checked"
    assert "--insecure-unsigned" in report["notes"][0]


def test_a_dry_run_looks_and_says_what_is_missing(signed: Path, keys: Path, tmp_path: Path) -> None:
    words = (signed, "-o", tmp_path / "out", "--dry-run")
    output, error = command(*words)
    assert error is None and "STOP: nobody has said whose bundles are taken" in output
    output, error = command(*words, "--insecure-unsigned")
    assert error is None and "STOP" not in output and "nobody vouches" in output
    output, error = command(*words, "--trust", keys / "mine.pub")
    assert error is None and "STOP" not in output and "nobody vouches" not in output


def test_a_library_that_opens_it_to_look_cannot_carry_it_out(
    space: Workspace, tmp_path: Path
) -> None:
    bundle = open_bundle(UNSIGNED, None, workspace=space)
    wish = Wish(tmp_path / "out")
    assert any("STOP" in line for line in steps(bundle, wish))
    for carry_out in (
        lambda: reinstall(bundle, UNSIGNED, wish, Events(), workspace=space),
        lambda: emit_script(bundle),
    ):
        with pytest.raises(ImagekitError, match="nobody vouches"):
            carry_out()
    assert not wish.directory.exists()


def test_the_script_takes_its_own_bundle_alone(signed: Path, keys: Path, space: Workspace) -> None:
    bundle = open_bundle(signed, keys / "mine.pub", workspace=space)
    script = emit_script(bundle)
    assert f"packed={digest_file(bundle.directory / IMAGE)}\n" in script
    assert "signed=yes\n" in script and "@" not in script.partition("fail()")[0]
    other = open_bundle(UNSIGNED, None, workspace=space, insecure_unsigned=True)
    assert "signed=no\n" in emit_script(other)


FACTS = {
    "nics": replace(
        RELATIVE, nics=(Nic("00:16:3e:00:00:01", "xenbr0", script="/tmp/evil"),)
    ).to_json()["nics"],
    "raw": {"xl": {"device_model_override": "/tmp/dm", "vga": "std"}},
}
ROOTS = [
    'nics[0].script: "/tmp/evil", run by dom0',
    'machine.raw: "xl" gets "device_model_override" = "/tmp/dm"',
    'machine.raw: "xl" gets "vga" = "std"',
]


def test_what_is_root_in_dom0_is_said_before_it_is(
    keys: Path, tmp_path: Path, space: Workspace
) -> None:
    path = rewritten(tmp_path, keys / "mine", FACTS)
    bundle = open_bundle(path, keys / "mine.pub", workspace=space)
    wish = Wish(tmp_path / "out")
    assert [line for line in steps(bundle, wish) if line.startswith("as root: ")] == [
        f"as root: {line}" for line in ROOTS
    ]
    said: list[str] = []

    def hear(event: Event) -> None:
        assert not wish.directory.exists()
        said.append(str(event.fields.get("text")))

    report = reinstall(bundle, path, wish, Events([hear]), workspace=space)
    assert said == [f"the bundle acts as root: {line}" for line in ROOTS]
    assert report.acts_as_root == ROOTS
    written = json.loads((wish.directory / "reinstall-report.json").read_text())
    assert written["acts_as_root"] == ROOTS


def test_a_bundle_puts_no_control_characters_on_a_terminal(
    keys: Path, tmp_path: Path, space: Workspace
) -> None:
    hostile = {"raw": {"\x1b[2K": {"\r\x9b": "\x07\u202e"}}}
    path = rewritten(tmp_path, keys / "mine", hostile)
    (line,) = acting_as_root(open_bundle(path, None, workspace=space), rebuilt=True)
    assert line.isascii() and line.isprintable()


def test_what_is_run_while_a_disk_is_built_again_is_said_too(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "name: web1\nos: {suite: bookworm}\nscripts: [./setup]\n"
        "install: {method: debootstrap, elements: [mine], element_path: [./elements]}\n"
        "nics: [{script: /etc/xen/scripts/vif-mine}]\n"
        "machine: {raw: {xl: {device_model_args: [-x]}}}\n"
    )
    loaded = load_spec(tmp_path / "spec.yaml")
    spec = BundledSpec(loaded.spec, loaded.path, loaded.sha256, loaded.tree, {})
    facts = Section.model_validate(RELATIVE.to_json())
    about = About(name="web1", imagekit="0")
    lock = Lock(name="web1", spec_sha256="0" * 64, method="debootstrap", source_date_epoch=0)
    manifest = Manifest(name="web1", facts=facts)
    bundle = Bundle(
        tmp_path / "b", "signed", tmp_path, about, manifest, Recipe(spec, lock), secrets={}
    )
    configs = [
        'nics[0].script: "/etc/xen/scripts/vif-mine", run by dom0',
        'machine.raw: "xl" gets "device_model_args" = ["-x"]',
    ]
    built = [
        'scripts: "./setup", run while the disk is built',
        'install.element_path: "./elements", elements run while the disk is built',
    ]
    assert acting_as_root(bundle, rebuilt=True) == configs + built
    assert acting_as_root(bundle, rebuilt=False) == []
