"""What apt, mmdebstrap and debootstrap say of a mirror is told with the field to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from imagekit.errors import (
    DownloadError,
    HostError,
    ImagekitError,
    SpecError,
    ToolError,
    VerificationError,
)
from imagekit.installs.mirrors import Mirrors
from imagekit.installs.stages.mirrorfailures import explain
from imagekit.spec.load import SpecFile, check_tree

MIRROR = "http://ann:hunter2@mirror.example/debian"
SECURITY = "http://security.example/debian"
TEXT = f"""\
name: a
os:
  suite: bookwurm
  mirror: {MIRROR}
  security_mirror: {SECURITY}
install:
  method: debootstrap
  kernel: linux-image-amd46
  packages: [openssh-server, nginxx]
"""
MIRRORS = Mirrors(((MIRROR, "bookwurm"),), ("main",), Path("/key.gpg"))


def spec() -> SpecFile:
    return check_tree(YAML(typ="rt", pure=True).load(TEXT), Path("a.yaml"))


def explained(log: str, tmp_path: Path) -> ImagekitError:
    path = tmp_path / "log"
    path.write_text(log)
    return explain(ToolError("mmdebstrap failed"), spec(), path, MIRRORS)


@pytest.mark.parametrize(
    ("log", "kind", "field", "what"),
    [
        ("E: Unable to locate package nginxx", SpecError, "install.packages[1]", "nginxx"),
        ("E: Unable to locate package linux-image-amd46", SpecError, "install.kernel", "amd46"),
        ("E: Unable to locate package udev", SpecError, "install.packages", "udev"),
        ("E: Couldn't find these debs: nginxx", SpecError, "install.packages[1]", "nginxx"),
        (
            "E: The repository 'http://mirror.example/debian bookwurm Release' does not have a "
            "Release file.",
            *(SpecError, "os.suite", "did you mean bookworm?"),
        ),
        ("E: Failed getting release file http://x/Release", SpecError, "os.suite", "no suite"),
        ("couldn't be verified: NO_PUBKEY 0E98", VerificationError, "os.suite", "keyring"),
        ("E: Release signed by unknown key", VerificationError, "os.suite", "keyring"),
        ("E: The repository 'x' is not signed.", VerificationError, "os.suite", "keyring"),
        (
            f"E: Release file for {MIRROR}/dists/x/InRelease is expired (invalid since 3d 2h).",
            *(VerificationError, "os.mirror", "has expired, 3d 2h ago"),
        ),
        (
            "Err:1 http://security.example/debian x InRelease\n  503  Service Unavailable [IP]\n"
            "E: Failed to fetch http://security.example/debian/dists/x/InRelease  503  Service "
            "Unavailable [IP: 192.0.2.1 80]\nE: The repository 'x' is not signed.",
            *(DownloadError, "os.security_mirror", "HTTP 503 Service Unavailable"),
        ),
        (
            "E: Failed to fetch http://mirror.example/debian/pool/x.deb  404  Not Found [IP: 1]",
            *(DownloadError, "os.mirror", "HTTP 404 Not Found"),
        ),
        ("Could not resolve 'mirror.example'", DownloadError, "os.mirror", "cannot be reached"),
        ("tar: No space left on device", HostError, "", "no space left"),
        ("dpkg: something else", ToolError, "", "mmdebstrap failed"),
    ],
)
def test_a_failure_is_told_with_its_field(
    tmp_path: Path, log: str, kind: type[ImagekitError], field: str, what: str
) -> None:
    error = explained(log, tmp_path)
    assert type(error) is kind, error
    assert what in error.what
    assert (error.where or "").rpartition(" ")[2] == field
    assert "hunter2" not in str(error)


def test_a_program_that_was_ended_is_not_explained_by_its_log(tmp_path: Path) -> None:
    error = ToolError("mmdebstrap took longer than 10 s")
    (tmp_path / "log").write_text("E: Unable to locate package nginxx")
    assert explain(error, spec(), tmp_path / "log", MIRRORS) is error
