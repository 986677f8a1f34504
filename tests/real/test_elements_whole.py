"""The whole of disk-image-create as a stage: its tree becomes a guest, its failures have names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.builds import Build, Run
from oracles.elements import make_element

pytestmark = pytest.mark.real
PIECE = 48 << 20


def write_spec(directory: Path, name: str, body: str) -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(f"name: {name}\nos: {{suite: bookworm}}\ninstall:\n{body}  element_path: [e]\n")
    return path


@pytest.fixture(scope="module")
def tree(
    build: Callable[..., Build], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tree of a build with elements, as imagekit stored it: stands in for an installation."""
    directory = tmp_path_factory.mktemp("tree")
    (directory / "e").mkdir()
    body = "  method: debootstrap\n  elements: [growroot]\n"
    built = build(write_spec(directory, "seed", body))
    key = next(s["key"] for s in built.manifest["stages"] if s["name"] == "rootfs")
    return cache / "store/objects" / key / "rootfs.tar"


@pytest.fixture(scope="module")
def site(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the element "seed-os", which provides an operating system from a tar."""
    directory = tmp_path_factory.mktemp("site")
    element = make_element(
        directory / "e",
        "seed-os",
        {
            "element-provides": "operating-system\n",
            "root.d/10-seed": """
                #!/bin/bash
                set -eu -o pipefail
                cat $(dirname $0)/../pieces/* | sudo tar -C $TARGET_ROOT --numeric-owner -x
                """,
        },
        deps="dpkg\n",
    )
    (element / "pieces").mkdir()
    with tree.open("rb") as stream:
        for number in range(1000):
            piece = stream.read(PIECE)
            if not piece:
                break
            (element / f"pieces/{number:03d}").write_bytes(piece)
    make_element(
        directory / "e",
        "mark",
        {"finalise.d/50-mark": "#!/bin/bash\nset -eu\necho $IMAGE_ELEMENT > /etc/mark\n"},
    )
    return directory


def test_its_tree_becomes_a_guest_without_loop_devices_or_device_mapper(
    site: Path, build: Callable[..., Build]
) -> None:
    body = "  method: diskimage-builder\n  elements: [seed-os, xen-guest, mark]\n"
    before = Path("/proc/mounts").read_text()
    built = build(write_spec(site, "whole", body))
    names = [s["name"] for s in built.manifest["stages"]]
    assert names[:2] == ["disk-image-create", "system"]
    assert built.manifest["kernel"]["pv"]["capable"] is True
    assert built.manifest["kernel"]["initrd"]["xen_blkfront"]["state"] == "module"
    assert "systemd-resolved" in {p["name"] for p in built.manifest["packages"]}
    log = next(
        built.path / a["path"]
        for a in built.manifest["artefacts"]
        if a["path"].endswith("disk-image-create.log")
    ).read_text()
    assert "Build completed successfully" in log
    assert "losetup" not in log
    assert "kpartx" not in log
    assert [m for m in Path("/proc/mounts").read_text().splitlines() if "dib_build" in m] == []
    assert "dib_build" not in before


def test_a_failing_element_is_named_as_in_our_own_pipeline(
    site: Path, imagekit: Run, tmp_path: Path
) -> None:
    make_element(
        site / "e",
        "bad-os",
        {
            "element-provides": "operating-system\n",
            "root.d/10-bad": "#!/bin/bash\nset -e\n\nfalse\n",
        },
    )
    body = "  method: diskimage-builder\n  elements: [bad-os]\n"
    spec = write_spec(site, "bad", body)
    done = imagekit("build", spec, "-o", tmp_path / "out", check=False)
    assert done.returncode == 5
    assert "the element bad-os failed in root.d/10-bad" in done.stderr
    assert [m for m in Path("/proc/mounts").read_text().splitlines() if "dib_build" in m] == []
