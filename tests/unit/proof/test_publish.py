"""What is not proven is not published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from oracles.manifests import artefact, write_manifest

from imagekit.errors import ProofError
from imagekit.pipeline.events import Events
from imagekit.proof import publish
from imagekit.proof.boots import Wanted, trials_of_build
from imagekit.proof.report import Boot, Outcome, ProofReport
from imagekit.spec.load import load_spec
from imagekit.spec.manifest import Manifest

SPEC = """\
name: web01
os: {suite: bookworm}
install: {method: debootstrap}
disk: {size: 1GiB}
"""


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the slow parts: a build is one file, a proof a directory and a report."""
    made: list[Path] = []

    def build(file: Any, out: Path, events: Events, **options: Any) -> Manifest:
        made.append(out)
        out.mkdir(exist_ok=True)
        (out / "web01.raw").write_text("image")
        return write_manifest(out, name="web01")

    monkeypatch.setattr(publish, "build", build)
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "web01.yaml").write_text(SPEC)
    return made


def proof(up: bool) -> Any:
    def prove(directory: Path, *_args: Any, **_options: Any) -> ProofReport:
        (directory / "proof").mkdir()
        (directory / "proof.json").write_text("{}")
        if not up:
            raise ProofError("1 of 1 boots failed", where="pv", hint="look")
        config, console = directory / "web01.pv.xl.cfg", directory / "proof/console.log"
        console.write_text("web01 login:")
        words = ("web01-pv", "web01", "pv", "pygrub", "raw")
        boot = Boot(*words, str(config), "0" * 64, Outcome.UP, console=str(console))
        return ProofReport(under="xen", boots=(boot,), seconds={})

    return prove


def test_a_proven_build_is_published_with_its_report(
    builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "prove_build", proof(up=True))
    out = tmp_path / "out"
    publish.build_proven(load_spec(tmp_path / "web01.yaml"), out, Events())
    assert builds == [publish.waiting_room(out), out]
    (boot,) = json.loads((out / "proof.json").read_text())["boots"]
    assert boot["config"] == str(out / "web01.pv.xl.cfg")
    assert Path(boot["console"]).read_text() == "web01 login:"
    assert not publish.waiting_room(out).exists()


def test_a_build_that_does_not_boot_leaves_the_published_one_alone(
    builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "prove_build", proof(up=False))
    out = tmp_path / "out"
    out.mkdir()
    (out / "web01.raw").write_text("the one in use")
    write_manifest(out, name="web01")
    with pytest.raises(ProofError) as caught:
        publish.build_proven(load_spec(tmp_path / "web01.yaml"), out, Events())
    assert (out / "web01.raw").read_text() == "the one in use"
    assert builds == [publish.waiting_room(out)]
    assert str(publish.waiting_room(out)) in str(caught.value)


def test_configs_proven_before_they_are_published_name_the_published_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    room = publish.waiting_room(out)
    room.mkdir()
    config = (
        f'name = "web01"\ntype = "pv"\nmemory = 256\nkernel = "{out}/vmlinuz"\n'
        f'disk = ["format=raw, vdev=xvda, access=rw, target={out}/web01.raw"]\n'
    )
    (room / "web01.pv.xl.cfg").write_text(config)
    write_manifest(room, artefacts=[artefact("domain-config", "web01.pv.xl.cfg", toolstack="xl")])
    (trial,) = trials_of_build(room, Wanted(), room / "proof")
    assert trial.config.data == config.encode()
    assert trial.host_path(f"{out}/web01.raw") == room / "web01.raw"
    assert trial.host_path(f"{out}/vmlinuz") == room / "vmlinuz"
    assert trial.host_path("/usr/share/x") == Path("/usr/share/x")
