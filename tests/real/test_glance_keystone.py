"""Uploads as users of the real Keystone, into the real Glance that asks it who they are.

The script does it with the real openstack command.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles import real_glance, real_keystone
from oracles.domain_facts import facts_for
from oracles.real_glance import RealGlance
from oracles.real_keystone import RealKeystone
from support.domains import machine

from imagekit.domain import model
from imagekit.errors import DownloadError, ToolError
from imagekit.toolstacks.glance.emitter import GlanceEmitter, Options
from imagekit.toolstacks.glance.upload import upload

pytest.importorskip("openstack", reason="missing: the Python package openstacksdk")
pytestmark = [pytest.mark.real, pytest.mark.long]


@pytest.fixture(scope="module")
def keystone(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKeystone]:
    with real_keystone.running(python, tmp_path_factory.mktemp("keystone")) as found:
        found.add_user("builder", "member")
        found.add_user("visitor", "reader")
        yield found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_glance.venv(tmp_path_factory.mktemp("glance") / "venv")


@pytest.fixture(scope="module")
def glance(
    python: Path, keystone: RealKeystone, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealGlance]:
    with real_glance.running(python, tmp_path_factory.mktemp("glance"), keystone) as found:
        yield found


@pytest.fixture
def clouds(
    glance: RealGlance, keystone: RealKeystone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clouds.yaml with a cloud for each kind of user."""
    common = {"region_name": "one", "image_endpoint_override": glance.url}
    found = {
        name: {"auth": auth, **common}
        for name, auth in {
            "builder": keystone.auth("builder"),
            "visitor": keystone.auth("visitor"),
            "mistyped": keystone.auth("builder", "wrong"),
            "nobody": keystone.auth("nobody"),
            "closed": {**keystone.auth("builder"), "auth_url": "http://127.0.0.1:9/v3"},
        }.items()
    }
    path = tmp_path / "clouds.yaml"
    path.write_text(json.dumps({"clouds": found}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))


def sent(tmp_path: Path, cloud: str) -> dict[str, str]:
    disk = tmp_path / "web1.raw"
    disk.write_bytes(bytes(1 << 20))
    domain = machine(disks=(model.Disk(str(disk)),))
    return upload(domain, facts_for(domain), Options(), cloud=cloud)


@pytest.mark.usefixtures("clouds")
def test_a_member_uploads(glance: RealGlance, tmp_path: Path) -> None:
    ids = sent(tmp_path, "builder")
    assert {image["id"]: image["status"] for image in glance.images()} == {ids["disk0"]: "active"}
    glance.delete(ids["disk0"])


@pytest.mark.usefixtures("clouds")
@pytest.mark.parametrize(
    ("cloud", "kind", "what"),
    [
        ("mistyped", ToolError, "does not accept the credentials"),
        ("nobody", ToolError, "does not accept the credentials"),
        ("visitor", ToolError, "forbids this user"),
        ("closed", DownloadError, "nothing listens"),
    ],
)
def test_who_may_not_upload_is_told_why(
    glance: RealGlance, tmp_path: Path, cloud: str, kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what):
        sent(tmp_path, cloud)
    assert glance.images() == []


def kernels(tmp_path: Path) -> model.Domain:
    """A guest whose kernel, initrd and bare file system are an image each."""
    for name in ("kernel", "initrd", "web1.raw"):
        (tmp_path / name).write_bytes(name.encode() * 4096)
    boot = model.DirectKernel(str(tmp_path / "kernel"), str(tmp_path / "initrd"), "ro 'a b'")
    return machine(boot=boot, disks=(model.Disk(str(tmp_path / "web1.raw")),))


def ran(domain: model.Domain, python: Path) -> subprocess.CompletedProcess[str]:
    """The script, run to its end as the user ``builder``."""
    text = GlanceEmitter(Options(ami=True)).text(domain, facts_for(domain))
    path = f"{python.parent}:/usr/bin:/bin"
    environment = {**os.environ, "OS_CLOUD": "builder", "PATH": path}
    return subprocess.run(
        ["sh"], input=text, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.usefixtures("clouds")
def test_the_script_makes_images_once(python: Path, glance: RealGlance, tmp_path: Path) -> None:
    domain = kernels(tmp_path)
    done = ran(domain, python)
    assert done.returncode == 0, done.stderr
    images = {image["disk_format"]: image for image in glance.images()}
    try:
        assert {kind: image["status"] for kind, image in images.items()} == {
            kind: "active" for kind in ("aki", "ari", "ami")
        }
        assert done.stdout.split() == [images["ami"]["id"]]
        assert images["ami"]["kernel_id"] == images["aki"]["id"]
        assert images["ami"]["os_command_line"] == "ro 'a b'"
        again = ran(domain, python)
        assert again.returncode == 1 and "already" in again.stderr
        assert len(glance.images()) == 3
    finally:
        for image in images.values():
            glance.delete(image["id"])


@pytest.mark.usefixtures("clouds")
def test_a_script_that_fails_leaves_nothing(
    python: Path, glance: RealGlance, tmp_path: Path
) -> None:
    domain = kernels(tmp_path)
    (tmp_path / "initrd").unlink()
    done = ran(domain, python)
    assert done.returncode != 0 and done.stdout == ""
    assert glance.images() == [], done.stderr
