"""A bundle of a build holds every file that its spec names, so that it plans like the original."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.elements import make_element
from oracles.manifests import artefact, write_manifest

from imagekit.installs.build import plan_for
from imagekit.installs.context import context_for
from imagekit.installs.elements.locked import locked_elements
from imagekit.installs.elements.planning import plan_elements
from imagekit.installs.mirrors import mirrors_for
from imagekit.installs.stages.lockfile import input_digests
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.recovery import bundle
from imagekit.recovery.unpacked import open_bundle
from imagekit.spec.load import load_spec
from imagekit.spec.lock import Lock, lock_text

DEB = b"a package"
HASH = "$y$j9T$saltsaltsalt$HashOfARealPasswordThatNobodyMaySee0123456789"
SPEC = """name: g
os: {suite: bookworm, mirror: 'http://mirror.test/debian', keyring: keys.gpg}
install: {method: debootstrap, elements: [e, growroot], element_path: [mine], KERNEL}
identity: {root_password: {env: ROOT_HASH}, users: [{name: anna, password: {file: ./anna}}]}
files: [{target: /etc/a, source: ./a}, {target: /etc/b, content: b}]
scripts: [./setup, sub/again]
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    with workspace(Events()) as made:
        yield made


def lay_out(base: Path, kernel: str) -> None:
    """A spec, all that it names, and its build as far as a bundle looks."""
    (base / "g.yaml").write_text(SPEC.replace("KERNEL", kernel))
    make_element(base / "mine", "e", {"install.d/10-x": "#!/bin/sh\ntrue\n"}, deps="sysprep\n")
    (base / "sub").mkdir()
    (base / "modules/6.1").mkdir(parents=True)
    (base / "modules/6.1/modules.dep").touch()
    for name in ("keys.gpg", "a", "setup", "sub/again", "vmlinuz", "initrd"):
        (base / name).write_text(f"#!/bin/sh\n: {name}\n")
    file = load_spec(base / "g.yaml")
    package = {
        **{"name": "hello", "version": "1", "architecture": "amd64", "path": "pool/h.deb"},
        **{"size": len(DEB), "sha256": hashlib.sha256(DEB).hexdigest()},
    }
    lock = Lock.model_validate(
        {
            **{"name": "g", "spec_sha256": file.sha256, "method": "debootstrap"},
            **{"source_date_epoch": 0, "inputs": input_digests(file), "packages": [package]},
            "elements": locked_elements(file, plan_elements(file, mirrors_for(file))),
        }
    )
    build = base / "build"
    build.mkdir()
    (build / "g.lock").write_text(lock_text(lock))
    disk = artefact("disk", "g.raw", format="raw", virtual_size=1)
    write_manifest(build, artefacts=[disk], name="g", spec_sha256=file.sha256)


@pytest.mark.parametrize(
    "kernel",
    [
        "kernel: linux-image-amd64",
        "kernel: ./vmlinuz, initrd: ./initrd, modules: ./modules/6.1",
    ],
)
def test_a_bundled_spec_finds_all_its_files_in_the_bundle(
    kernel: str, tmp_path: Path, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    lay_out(here, kernel)
    monkeypatch.setattr(
        bundle,
        "collect",
        lambda lock, debs, *_: (debs / lock.packages[0].filename).write_bytes(DEB),
    )
    file = load_spec(here / "g.yaml")
    bundle.make_bundle(here / "build", file, there / "b", workspace=space)
    (here / "anna").write_text(HASH)
    (here / "anna").rename(there / "anna")
    opened = open_bundle(there / "b", None, workspace=space, insecure_unsigned=True)
    assert opened.recipe is not None
    # What lies beside the original is there no more.
    here.rename(tmp_path / "gone")
    context = context_for(
        opened.recipe.spec, there / "out", {"ROOT_HASH": HASH}, lock=opened.recipe.lock
    )
    plan = plan_for(context)
    for planned in plan.stages:
        planned.stage.check()
    names = [planned.stage.name for planned in plan.stages]
    assert {"rootfs", "elements-install", "system", "image"} <= set(names)
    assert input_digests(opened.recipe.spec) == opened.recipe.lock.inputs
