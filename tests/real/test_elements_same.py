"""One spec, built by imagekit's stages and by disk-image-create: the same packages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from oracles.builds import Build

pytestmark = [pytest.mark.real, pytest.mark.slow]
SPEC = """
name: {name}
os: {{suite: bookworm}}
install:
  method: {method}
  elements: [xen-guest, xen-pv-kernel, growroot, serial-console, ssh-hardening]
"""


@pytest.fixture(scope="module")
def pair(
    build: Callable[..., Build], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Build, Build]:
    """The guest of imagekit's own stages, and the one of disk-image-create."""

    def made(name: str, method: str) -> Build:
        path = tmp_path_factory.mktemp("spec") / f"{name}.yaml"
        path.write_text(SPEC.format(name=name, method=method))
        return build(path)

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
