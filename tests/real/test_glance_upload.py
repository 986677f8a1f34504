"""Uploads into the real Glance, with what goes wrong there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles import real_glance
from oracles.domain_facts import facts_for
from oracles.manifests import below, write_manifest
from oracles.real_glance import RealGlance

from imagekit.domain import model
from imagekit.errors import ExistsError, ToolError
from imagekit.toolstacks.glance.emitter import Options
from imagekit.toolstacks.glance.upload import upload

pytest.importorskip("openstack", reason="the Python package openstacksdk is not installed")
pytestmark = [pytest.mark.real, pytest.mark.long]

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
MIB = 1 << 20


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_glance.venv(tmp_path_factory.mktemp("glance") / "venv")


@pytest.fixture
def glance(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealGlance]:
    """A Glance that clouds.yaml names ``test``."""
    root = tmp_path / "glance"
    root.mkdir()
    with real_glance.running(python, root) as found:
        (tmp_path / "clouds.yaml").write_text(
            "clouds:\n  test:\n    auth_type: none\n    image_api_version: '2'\n"
            f"    image_endpoint_override: {found.url}\n    auth: {{endpoint: '{found.url}'}}\n"
        )
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
        yield found


def guest(tmp_path: Path, size: int, name: str = "web1") -> model.Domain:
    disk = tmp_path / f"{name}.raw"
    with disk.open("wb") as file:
        file.write(os.urandom(4096))
        file.truncate(size)
    return model.Domain(name, UUID, "pv", 512, 1, model.Pygrub(), (model.Disk(str(disk)),))


def sent(domain: model.Domain, **options: object) -> dict[str, str]:
    return upload(domain, facts_for(domain), Options(**options), cloud="test")  # type: ignore[arg-type]


def uploading(domain: model.Domain, tmp_path: Path) -> subprocess.Popen[str]:
    build = tmp_path
    write_manifest(build, below(build, facts_for(domain)))
    words: list[str | Path] = [
        "-m",
        "imagekit",
        "config",
        build,
        "--toolstack",
        "glance",
        "--upload",
    ]
    return subprocess.Popen(
        [sys.executable, *words, "--cloud", "test"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def in_the_middle(glance: RealGlance) -> str:
    """The id of the image that is being uploaded, as soon as there is one."""
    for _ in range(600):
        for image in glance.images():
            if image["status"] == "saving":
                return str(image["id"])
        time.sleep(0.05)
    raise AssertionError("nothing was uploaded")


def test_three_images_arrive_and_a_second_run_is_refused(
    glance: RealGlance, tmp_path: Path
) -> None:
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(name.encode() * 5000)
    disks = (model.Disk(guest(tmp_path, MIB).disks[0].target),)
    boot = model.DirectKernel(str(tmp_path / "kernel"), str(tmp_path / "initrd"), "ro")
    domain = model.Domain("web1", UUID, "pv", 512, 1, boot, disks)
    ids = sent(domain, ami=True)
    found = {image["id"]: image for image in glance.images()}
    assert set(found) == set(ids.values())
    assert {image["status"] for image in found.values()} == {"active"}
    assert found[ids["disk0"]]["kernel_id"] == ids["kernel"]
    with pytest.raises(ExistsError):
        sent(domain, ami=True)
    assert len(glance.images()) == 3


@pytest.mark.parametrize(
    ("setting", "what"),
    [("image_size_cap = 3000000", "larger"), ("user_storage_quota = 3000000", "quota")],
)
def test_its_limits_are_told_apart(
    glance: RealGlance, tmp_path: Path, setting: str, what: str
) -> None:
    glance.kill()
    glance.configure(setting)
    glance.start()
    with pytest.raises(ToolError) as caught:
        sent(guest(tmp_path, 9 * MIB))
    assert what in caught.value.what and glance.images() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, to mount a small file system")
def test_a_full_store_is_told(glance: RealGlance, tmp_path: Path) -> None:
    store = glance.root / "store"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", store], check=True)
    try:
        with pytest.raises(ToolError, match="full"):
            sent(guest(tmp_path, 9 * MIB))
    finally:
        subprocess.run(["umount", "-l", store], check=True)
    assert glance.images() == []


def test_a_tgz_is_refused_with_the_setting(glance: RealGlance, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="container_format tgz"):
        sent(guest(tmp_path, MIB), target="nova-xenapi", handler="vdi_local_dev")
    assert glance.images() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_upload_leaves_nothing(
    glance: RealGlance, tmp_path: Path, number: int
) -> None:
    domain = guest(tmp_path, 800 * MIB)
    child = uploading(domain, tmp_path)
    in_the_middle(glance)
    child.send_signal(number)
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 128 + number, text
    assert "everything was released" in text and glance.images() == []


def test_a_killed_glance_leaves_what_is_named_twice_and_the_next_try_works(
    glance: RealGlance, tmp_path: Path
) -> None:
    child = uploading(guest(tmp_path, 800 * MIB), tmp_path)
    identity = in_the_middle(glance)
    glance.kill()
    text, _ = child.communicate(timeout=120)
    command = f"openstack --os-cloud test image delete {identity}"
    assert child.returncode == 6 and command in text
    glance.start()
    small = guest(tmp_path, MIB)
    with pytest.raises(ExistsError, match="never ended") as caught:
        sent(small)
    assert command in str(caught.value.hint)
    glance.delete(identity)
    assert sent(small)
