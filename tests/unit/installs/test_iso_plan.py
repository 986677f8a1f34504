"""Specs that install from an ISO: what is refused while planning, and what a plan depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from imagekit.errors import SpecError
from imagekit.installs import iso
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.harvesting import read_dpkg_status
from imagekit.pipeline.plan import Plan
from imagekit.spec.load import load_spec


def plan(base: Path, install: dict[str, Any] | None = None, **changes: Any) -> Plan:
    value: dict[str, Any] = {
        "name": "web01",
        "os": {"suite": "bookworm"},
        "install": {"method": "iso", "iso": "x.iso", **(install or {})},
        "disk": {"size": "8GiB"},
        **changes,
    }
    if not (base / "x.iso").exists():
        (base / "x.iso").write_bytes(b"an ISO")
    with (base / "web01.yaml").open("w") as stream:
        YAML().dump(value, stream)
    return iso.plan(BuildContext(load_spec(base / "web01.yaml"), base / "out"))


@pytest.mark.parametrize(
    "proof",
    [
        {"sha256": "0" * 64},
        {"sha256": "0" * 64, "keyring": "x.iso"},
        {"keyring": "x.iso", "checksums": "https://host.example/SHA256SUMS"},
        {"keyring": "x.iso", "signature": "https://host.example/x.iso.sig"},
    ],
)
def test_an_iso_from_a_url_is_taken_with_what_vouches_for_it(
    proof: dict[str, Any], tmp_path: Path
) -> None:
    made = plan(tmp_path, {"iso": "https://host.example/x.iso", **proof})
    assert made.stages[0].stage.name == "iso"


def keys(made: Plan) -> dict[str, str]:
    return {p.stage.name: p.key for p in made.stages}


def test_the_stages_come_in_order_and_deliver_every_artefact(tmp_path: Path) -> None:
    made = plan(tmp_path, disk={"size": "8GiB", "formats": ["raw", "vhd"]})
    names = [p.stage.name for p in made.stages]
    assert names[:6] == ["iso", "answers", "remaster", "install", "harvest", "configs"]
    assert set(names[6:]) == {"sbom", "lock", "vhd"}
    roles = {"disk", "kernel", "initrd", "facts", "answers", "sbom", "lock"}
    assert {t.role for t in made.targets} >= roles


@pytest.mark.parametrize(
    ("install", "changes", "message"),
    [
        ({"iso": "no.iso"}, {}, "there is no ISO"),
        ({"iso": "https://host.example/x.iso"}, {}, "can be verified"),
        ({"iso": "https://host.example/x.iso", "keyring": "x.iso"}, {}, "keyring alone"),
        ({"iso": "http://host.example/x.iso", "checksums": "x.iso"}, {}, "can be verified"),
        ({"iso": "http://host.example/x.iso", "template": "x.iso"}, {}, "can be verified"),
        ({"signature": "x.sig"}, {}, "keyring"),
        ({"keyring": "no.gpg"}, {}, "there is no keyring"),
        ({"template": "no.j2"}, {}, "there is no template"),
        ({"args": 'inst.sshd a"b'}, {}, "kernel argument"),
        ({"answers": "kickstart", "release": "slackware"}, {}, "kickstart release"),
        (
            {"on_host": True},
            {"files": [{"target": "/etc/motd", "content": "x"}]},
            "imagekit inject",
        ),
        ({"on_host": True}, {"scripts": ["x.iso"]}, "imagekit inject"),
        ({}, {"files": [{"target": "/etc/motd", "source": "no"}]}, "there is no file"),
        ({}, {"disk": {"size": "8GiB", "filesystem": "btrfs"}}, "btrfs"),
        (
            {},
            {"disk": {"size": "8GiB", "table": "none"}, "boot": {"modes": ["pv"]}},
            "partition table",
        ),
    ],
)
def test_what_cannot_be_installed_is_refused_before_anything_is_done(
    tmp_path: Path, install: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        plan(tmp_path, install, **changes)
    assert message in str(caught.value) and "web01.yaml" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_answers_run_the_installer_again_and_another_toolstack_does_not(
    tmp_path: Path,
) -> None:
    first = keys(plan(tmp_path))
    (tmp_path / "b").mkdir()
    answers = keys(plan(tmp_path, {"packages": ["openssh-server"]}))
    args = keys(plan(tmp_path, {"args": "inst.sshd"}))
    assert first["remaster"] != args["remaster"] and first["answers"] == args["answers"]
    toolstack = keys(plan(tmp_path, toolstacks=["xl", "libvirt"]))
    assert first["install"] != answers["install"] and first["harvest"] != answers["harvest"]
    assert first["install"] == toolstack["install"] and first["configs"] != toolstack["configs"]


def test_files_and_scripts_are_put_into_the_disk_that_the_installer_left(tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("a")
    (tmp_path / "setup.sh").write_text("#!/bin/sh\n")
    more: dict[str, Any] = {
        "files": [{"target": "/etc/motd", "source": "motd"}],
        "scripts": ["setup.sh"],
    }
    made = [keys(plan(tmp_path)), keys(plan(tmp_path, **more))]
    for name in more:
        (tmp_path / {"files": "motd", "scripts": "setup.sh"}[name]).write_text("b")
        made.append(keys(plan(tmp_path, **more)))
    assert len({k["install"] for k in made}) == 1, "the installer is not run again"
    assert len({k["harvest"] for k in made}) == 4


def test_a_changed_iso_is_taken_anew(tmp_path: Path) -> None:
    first = keys(plan(tmp_path))
    digest = keys(plan(tmp_path, {"sha256": "a" * 64}))
    assert first["iso"] != digest["iso"]


def test_only_installed_packages_of_a_dpkg_status_file_are_listed() -> None:
    text = (
        "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2-3\n"
        "Description: x\n Package: trick\n\n"
        "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\nnonsense\n"
    )
    assert list(read_dpkg_status(text)) == [
        {"name": "a", "version": "1:2-3", "architecture": "all"}
    ]


def test_an_installation_for_a_xen_host_ends_with_its_configs_and_script(tmp_path: Path) -> None:
    made = plan(tmp_path, {"on_host": True}, boot={"modes": ["pv", "hvm"]})
    assert [p.stage.name for p in made.stages] == ["iso", "answers", "remaster", "on-host"]
    paths = {t.path: t for t in made.targets}
    assert {"web01.pv.install.xl.cfg", "web01.hvm.xl.cfg", "web01.on-host.sh"} <= set(paths)
    for name in ("web01.iso", "web01.answers", "web01-installer-initrd.img"):
        assert paths[name].mode == 0o600, "it holds password hashes"
    texts = made.stages[-1].stage.key()["texts"]
    assert "devtype=cdrom" in texts["web01.pv.install.xl.cfg"]
    assert "devtype=cdrom" not in texts["web01.pv.xl.cfg"]


def test_a_build_directory_that_configs_cannot_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    with pytest.raises(SpecError, match="cannot name"):
        plan(tmp_path / "a,b", {"on_host": True})
