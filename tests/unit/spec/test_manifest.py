"""The manifest: what earlier versions wrote is read, what is wrong or leads outside is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.manifests import artefact, write_manifest
from support.domains import FACTS

from imagekit.cli.demo import tell
from imagekit.domain.facts import facts_in, facts_of
from imagekit.errors import SpecError
from imagekit.kernel.report import kernel_of
from imagekit.pipeline.build_directory import BuildDirectory
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace
from imagekit.provision.golden import open_golden
from imagekit.recovery.reinstall import reinstall
from imagekit.recovery.target import Wish
from imagekit.recovery.unpacked import open_bundle
from imagekit.spec.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    file_in,
    manifest_text,
    parse_manifest,
    read_manifest,
)

EARLIER = Path(__file__).parent / "manifests"
"""Of builds and of a guest's bundle that version 0.1.0 made, the one before-xens the first of all.

The disk in the bundle is 6 kB of text in 1 MiB of zeros.
"""
BUILDS = ("debootstrap.json", "before-xens.json")


def test_a_manifest_of_the_earlier_version_is_written_as_it_was() -> None:
    data = (EARLIER / "debootstrap.json").read_bytes()
    manifest = parse_manifest(data, "x")
    assert manifest_text(manifest).encode() == data
    assert manifest.proof is not None and manifest.proof.xen == ["4.17"]


@pytest.mark.parametrize("name", BUILDS)
def test_manifests_of_earlier_versions_tell_all_that_is_asked(name: str) -> None:
    value = json.loads((EARLIER / name).read_text())
    manifest = parse_manifest(json.dumps(value).encode(), name)
    guest = value["name"]
    digests = {a["path"]: a["sha256"] for a in value["artefacts"] if a["role"] == "disk"}
    assert manifest.disk_digests == digests
    assert manifest.kernel is not None and manifest.kernel.path == f"{guest}-vmlinuz"
    assert manifest.initrd is not None and manifest.initrd.path == f"{guest}-initrd.img"
    kernel = kernel_of(manifest, name)
    assert kernel.release == value["kernel"]["release"]
    assert list(kernel.pvh.evidence) == value["kernel"]["pvh"]["evidence"]
    facts = facts_of(manifest, name)
    assert facts.to_json() == value["facts"]
    for toolstack in ("xl", "libvirt"):
        configs = [a for a in value["artefacts"] if a.get("toolstack") == toolstack]
        assert [c.path for c in manifest.configs(toolstack)] == [a["path"] for a in configs]
    assert f"{guest}.pv.xl.cfg" in {c.path for c in manifest.configs()}


@pytest.mark.parametrize("missing", ["proof", "spec_sha256", "kernel", "packages", "tools"])
def test_what_the_first_manifests_lacked_may_be_missing(missing: str) -> None:
    value = json.loads((EARLIER / "before-xens.json").read_text())
    del value[missing]
    assert facts_of(parse_manifest(json.dumps(value).encode(), "x"), "x").name == "web01"


def test_a_bundle_of_the_earlier_version_gives_its_guest_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    with workspace(Events()) as space:
        bundle = open_bundle(
            EARLIER / "guest.bundle", None, workspace=space, insecure_unsigned=True
        )
        report = reinstall(bundle, EARLIER, Wish(out), Events(), workspace=space)
    assert report.identical
    disk = (out / "mail01.raw").read_bytes()
    assert disk == b"mail01" * 1000 + bytes((1 << 20) - 6000)
    assert (out / "mail01-vmlinuz").read_bytes() == b"a kernel"
    assert f"target={out}/mail01.raw" in (out / "mail01.xl.cfg").read_text()


def test_keys_of_a_later_version_stay_in_a_manifest_that_is_rewritten(tmp_path: Path) -> None:
    value = {"name": "web01", "colour": {"deep": [None, 1]}, "artefacts": []}
    (tmp_path / MANIFEST).write_text(json.dumps(value))
    again = json.loads(manifest_text(read_manifest(tmp_path)))
    assert again == {"manifest_version": 1, **value}


def one(**changes: Any) -> dict[str, Any]:
    """A manifest of one disk, which is right but for ``changes`` to the disk."""
    disk = {"role": "disk", "path": "a.raw", "sha256": "0" * 64, "bytes": 1}
    return {"name": "web01", "artefacts": [{**disk, **changes}]}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (one(path="/etc/shadow"), "artefacts[0].path"),
        (one(path="../b/a.raw"), "artefacts[0].path"),
        (one(path="logs/../../b"), "artefacts[0].path"),
        (one(path=""), "artefacts[0].path"),
        (one(path="a\nb"), "artefacts[0].path"),
        (one(path="a" * 2000), "artefacts[0].path"),
        (one(path=7), "artefacts[0].path"),
        (one(sha256="0" * 63), "artefacts[0].sha256"),
        (one(sha256=None), "artefacts[0].sha256"),
        (one(bytes=-1), "artefacts[0].bytes"),
        (one(bytes="1"), "artefacts[0].bytes"),
        (one(virtual_size=1 << 80), "artefacts[0].virtual_size"),
        ({"artefacts": []}, "name"),
        ({"name": "../web01"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "."}, "name"),
        ({"name": "web01", "artefacts": {}}, "artefacts"),
        ({"name": "web01", "facts": []}, "facts"),
        ({"name": "web01", "proof": {"timeout": 0}}, "proof.timeout"),
        ({"name": "web01", "packages": [{"name": "a"}]}, "packages[0].version"),
        ({"name": "web01", "stages": [{"name": "a", "key": "", "cached": 1}]}, "stages[0].cached"),
        ({"name": "web01", "manifest_version": 2}, "manifest_version"),
        ([], None),
    ],
)
def test_what_is_wrong_is_refused_with_file_and_field(value: Any, field: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        parse_manifest(json.dumps(value).encode(), "b/manifest.json")
    assert caught.value.where == (f"b/manifest.json: {field}" if field else "b/manifest.json")


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000, b'{"name": "\\ud800"}'])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(SpecError, match="JSON"):
        parse_manifest(data, "b/manifest.json")


@given(st.text(max_size=40))
def test_no_path_that_is_taken_leaves_the_directory(path: str) -> None:
    try:
        manifest = parse_manifest(json.dumps(one(path=path)).encode(), "x")
    except SpecError:
        return
    whole = os.path.normpath(os.path.join("/build", manifest.artefacts[0].path))  # noqa: PTH118
    assert whole == "/build" or whole.startswith("/build/")


def test_a_manifest_is_read_to_its_limit_and_no_further(tmp_path: Path) -> None:
    text = json.dumps({"name": "web01"})
    path = tmp_path / MANIFEST
    path.write_text(text + " " * (MAX_MANIFEST_BYTES - len(text)))
    assert read_manifest(tmp_path).name == "web01"
    with path.open("a") as stream:
        stream.write(" ")
    with pytest.raises(SpecError, match="16 MiB"):
        read_manifest(tmp_path)


def test_a_pipe_in_place_of_a_manifest_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(SpecError, match="not a file"):
        read_manifest(tmp_path)
    assert BuildDirectory(tmp_path).manifest() is None


def test_a_link_that_leads_out_of_the_build_is_refused(tmp_path: Path) -> None:
    build = tmp_path / "build"
    build.mkdir()
    (tmp_path / "secret").write_text("s")
    (build / "disk.raw").symlink_to("../secret")
    (build / "web1.raw").symlink_to("real.raw")
    (build / "real.raw").touch()
    with pytest.raises(SpecError, match="leads out"):
        file_in(build, "disk.raw")
    assert file_in(build, "web1.raw") == build / "web1.raw"
    (tmp_path / "alias").symlink_to("build")
    assert file_in(tmp_path / "alias", "real.raw").name == "real.raw"


@pytest.mark.parametrize("path", ["/etc/shadow", "../secret", "link.raw"])
def test_facts_that_name_a_file_outside_make_no_guest(path: str, tmp_path: Path) -> None:
    build = tmp_path / "build"
    build.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    (build / "link.raw").symlink_to("../secret")
    write_manifest(build, name="web01", artefacts=[artefact("disk", "a.raw", format="raw")])
    value = json.loads((build / MANIFEST).read_text())
    facts: Any = {**FACTS.to_json(), "kernel": None, "initrd": None}
    facts["disks"] = [{"paths": {"raw": path}, "virtual_size": 4096}]
    (build / MANIFEST).write_text(json.dumps({**value, "facts": facts}))
    with pytest.raises(SpecError, match="leads out"):
        open_golden(build)
    with pytest.raises(SpecError, match="leads out"):
        facts_in(build)


def test_a_manifest_cannot_be_changed() -> None:
    manifest = Manifest(name="web01")
    with pytest.raises(ValueError, match="frozen"):
        manifest.name = "web02"  # type: ignore[misc]


def test_the_demo_is_told_from_its_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes((EARLIER / "before-xens.json").read_bytes())
    text = tell(tmp_path)
    assert "Its kernel 6.1.0-56-amd64 boots as pv, pvh, hvm." in text
    assert "raw     web01.raw" in text
