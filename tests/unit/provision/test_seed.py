"""What cloud-init's YAML parser reads from a seed disk is what was asked for."""

from __future__ import annotations

import io
from pathlib import Path

import pycdlib
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from imagekit.guest.changes import SshKey
from imagekit.guest.sshkeys import PublicKey
from imagekit.provision.request import make_request
from imagekit.provision.seed import write_seed

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def files_of(path: Path) -> dict[str, str]:
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    found = {}
    for name in ("meta-data", "user-data", "network-config"):
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, joliet_path=f"/{name}")
        found[name] = content.getvalue().decode("ascii")
    iso.close()
    return found


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20))
def test_keys_with_any_comment_reach_cloud_init_whole(tmp_path: Path, comment: str) -> None:
    line = f"{KEY} {comment}😀\\ud83d\\ude00 \U0010fffdx"
    target = tmp_path / "seed.iso"
    target.write_bytes(b"")
    request = make_request({"name": "web1.example.org"})
    write_seed(request, (SshKey("root", (PublicKey(line, "AAAA"),)),), 1, target)
    found = files_of(target)
    user = YAML(typ="safe", pure=True).load(found["user-data"])
    assert user["ssh_authorized_keys"] == [line]
    pyyaml = pytest.importorskip("yaml")
    assert pyyaml.safe_load(found["user-data"])["ssh_authorized_keys"] == [line]
    assert pyyaml.safe_load(found["meta-data"])["local-hostname"] == "web1.example.org"
    assert pyyaml.safe_load(found["network-config"])["version"] == 2
