"""Uploads as users of the real Keystone, into the real Glance that asks it who they are."""

from __future__ import annotations

import json
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
from imagekit.toolstacks.glance.emitter import Options
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
