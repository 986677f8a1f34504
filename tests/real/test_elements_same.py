"""One spec, built by imagekit's stages and by disk-image-create: the same packages, both boot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.elements import guest_spec
from oracles.proofs import report_of

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def pair(
    build: Callable[..., Build], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Build, Build]:
    """The guest of imagekit's own stages, and the one of disk-image-create."""

    def made(name: str, method: str) -> Build:
        return build(guest_spec(tmp_path_factory.mktemp("spec"), name, method))

    return made("here", "debootstrap"), made("there", "diskimage-builder")


def packages(built: Build) -> set[tuple[str, str, str]]:
    rows = built.manifest["packages"]
    found = {(p["name"], p["version"], p["architecture"]) for p in rows}
    assert len(found) == len(rows)
    return found


def test_both_install_the_same_packages(pair: tuple[Build, Build]) -> None:
    here, there = pair
    ran = {s["name"] for s in there.manifest["stages"]}
    assert "disk-image-create" in ran
    assert not {name for name in ran if name.startswith("elements-")}
    assert packages(here) == packages(there)
    assert {"openssh-server", "cloud-guest-utils"} <= {name for name, _v, _a in packages(there)}


@pytest.mark.xen
@pytest.mark.long
def test_the_guest_of_imagekits_own_stages_boots_as_pv(
    pair: tuple[Build, Build], imagekit: Run
) -> None:
    here, _there = pair
    imagekit("prove", here.path, "--mode", "pv", "--boot", "direct", timeout=1500)
    (found,) = report_of(here.path)["boots"]
    assert (found["ok"], found["guest_type"], found["disks"]) == (True, "PV", ["xvda"])
    assert all(found["dhcp"].values())
    assert "here login:" in Path(found["console"]).read_text(errors="replace")


@pytest.mark.xen
@pytest.mark.long
def test_the_image_of_disk_image_create_boots_as_pv_by_somebody_elses_config(
    pair: tuple[Build, Build], imagekit: Run, tmp_path: Path
) -> None:
    _here, there = pair
    config = tmp_path / "theirs.cfg"
    config.write_text(
        'name = "theirs"\nmemory = 512\nbootloader = "pygrub"\n'
        "disk = [ 'phy:/dev/vg-of-theirs/root,xvda,w' ]\n"
    )
    expected = ["--image", there.disk("raw"), "--config", config, "-o", tmp_path]
    imagekit("prove", *expected, timeout=1500)
    (found,) = report_of(tmp_path)["boots"]
    assert (found["ok"], found["nics"], found["disks"]) == (True, [], ["xvda"])
    assert found["guest_type"] == "PV"
    assert "there login:" in Path(found["console"]).read_text(errors="replace")
