"""What a build says of its disks, through the stages: sizes and digests of the files delivered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from imagekit.cli.config import config
from imagekit.disk.layout import Ids, plan_layout
from imagekit.domain.facts import facts_in, read_facts
from imagekit.installs import build as builds
from imagekit.installs.context import BuildContext
from imagekit.installs.finish import finish
from imagekit.installs.stages.lockfile import LockFile
from imagekit.pipeline.events import Events
from imagekit.pipeline.plan import Plan, make_plan
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.load import SpecFile, load_spec
from imagekit.spec.manifest import Manifest, read_manifest

SPEC = """\
name: web01
os: {suite: bookworm}
install: {method: debootstrap}
disk: {size: 64MiB, formats: [FORMATS]}
boot: {modes: [pv]}
toolstacks: [xl, opennebula]
"""
LEFT_OUT = ("sbom", "lock")
"""Stages, and roles of artefacts, that need packages from a mirror."""


class Tree(Stage):
    """A disk of random bytes, different each time, as without SOURCE_DATE_EPOCH."""

    name: ClassVar[str] = "image"
    title: ClassVar[str] = "making a disk"
    makes = (
        "disk.raw",
        "layout.json",
        "kernel",
        "initrd",
        "kernel.json",
        "packages.json",
        "release",
        "sources.json",
    )

    def __init__(self, file: SpecFile) -> None:
        self._disk = file.spec.disk

    def key(self) -> Mapping[str, Any]:
        return {}

    def run(self, run: StageRun) -> None:
        able = {"capable": True, "evidence": ["made up"]}
        modes = dict.fromkeys(("pv", "pvh", "hvm"), able)
        layout = plan_layout(self._disk, Ids("x")).to_json()
        texts = {
            "layout.json": json.dumps({"layout": layout, "cmdline": "root=UUID=0 ro"}),
            "kernel": "a kernel",
            "initrd": "an initrd",
            "release": "6",
            "sources.json": "{}",
            "kernel.json": json.dumps({**modes, "release": "6"}),
            "packages.json": json.dumps([{"name": "a", "version": "1", "architecture": "all"}]),
        }
        for name, text in texts.items():
            (run.output / name).write_text(text)
        with (run.output / "disk.raw").open("wb") as disk:
            disk.write(os.urandom(5000))
            disk.truncate(self._disk.size)


def plan(context: BuildContext) -> Plan:
    whole = finish(context, [], Tree(context.file), LockFile(context, []))
    kept = [planned.stage for planned in whole.stages if planned.stage.name not in LEFT_OUT]
    made = [target for target in whole.targets if target.role not in LEFT_OUT]
    return make_plan(kept, made, context.environment)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builds, "plan_for", plan)
    path = tmp_path / "web01.yaml"
    path.write_text(SPEC.replace("FORMATS", "raw, vhd"))
    return path


def build(spec: Path, out: Path) -> Manifest:
    return builds.build(load_spec(spec), out, Events())


def check(out: Path, *formats: str) -> None:
    """Facts, manifest and files agree with each other."""
    facts = facts_in(out)
    (disk,) = facts.disks
    assert set(disk.paths) == set(disk.sizes) == set(disk.sha256) == set(formats)
    for name in formats:
        data = Path(disk.paths[name]).read_bytes()  # type: ignore[index]
        assert disk.sizes[name] == len(data)  # type: ignore[index]
        assert disk.sha256[name] == hashlib.sha256(data).hexdigest()  # type: ignore[index]
    assert read_facts(out / "facts.json").located(str(out)) == facts
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert digest == hashlib.sha256((out / name).read_bytes()).hexdigest(), name


def test_facts_have_size_and_digest_of_every_format(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(spec, out) == read_manifest(out)
    check(out, "raw", "vhd")


def test_opennebula_registers_the_disk_of_a_build_with_its_digest(
    spec: Path, tmp_path: Path
) -> None:
    out, to = tmp_path / "out", tmp_path / "one"
    build(spec, out)
    app = typer.Typer()
    app.command()(config)
    words = [str(out), "--toolstack", "opennebula", "-o", str(to)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    digest = hashlib.sha256((out / "web01.raw").read_bytes()).hexdigest()
    text = (to / "web01.pv.one.xvda.image").read_text()
    assert f"built by imagekit, sha256:{digest}" in text


def test_a_disk_that_is_made_again_with_other_bytes_is_described_anew(
    spec: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = build(spec, out).disk_digests
    with (out / "web01.raw").open("r+b") as disk:  # the guest was booted and wrote to it
        disk.write(b"written by the guest")
    manifest = builds.build(load_spec(spec), out, Events(), force=True)
    assert manifest.disk_digests["web01.raw"] != first["web01.raw"]
    ran = {stage.name for stage in manifest.stages or () if not stage.cached}
    assert "configs" not in ran and "image" in ran
    check(out, "raw", "vhd")


def test_a_disk_that_was_stored_for_another_format_is_described_too(
    spec: Path, tmp_path: Path
) -> None:
    spec.write_text(SPEC.replace("FORMATS", "vhd"))
    build(spec, tmp_path / "vhd")
    check(tmp_path / "vhd", "vhd")
    spec.write_text(SPEC.replace("FORMATS", "raw, vhd"))
    manifest = build(spec, tmp_path / "both")
    assert {s.name: s.cached for s in manifest.stages or ()}["image"]
    check(tmp_path / "both", "raw", "vhd")
