"""Answers of every release we claim, read by the installers' own parsers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from imagekit.answers.context import Context, mirror_of, target_of
from imagekit.answers.render import Kind, render
from imagekit.answers.validate import validate
from imagekit.errors import SpecError
from imagekit.spec.model import Spec

pytestmark = pytest.mark.real
KICKSTARTS = ["RHEL5", "RHEL6", "RHEL7", "RHEL8", "RHEL9", "RHEL10", "F14", "F20", "F31", "F42"]
FIXED = {"addresses": ["192.0.2.10/24"], "gateways": ["192.0.2.1"], "dns": ["192.0.2.53"]}


def made(kind: Kind, release: str, mirror: str | None, **changes: Any) -> Context:
    spec = Spec.model_validate(
        {
            "name": "web01",
            "os": {"distribution": "debian", "suite": release},
            "install": {"method": "iso", "iso": "/x.iso"},
            "disk": {"size": "8GiB", "swap": "512MiB"},
            "identity": {
                "users": [
                    {"name": "ann", "gecos": "Ann O'Neil $HOME", "groups": ["adm"], "sudo": True},
                    {"name": "bob", "ssh_keys": ["ssh-ed25519 AAAA b's"]},
                ]
            },
            **changes,
        }
    )
    target = target_of(kind, release, release, spec.os.distribution)
    hashes = {"root": "$6$a'b\"c$d", "ann": "$y$j9T$x"}
    mac = "00:16:3e:00:00:01"
    return Context(spec, target, ("openssh-server",), hashes, mirror_of(mirror), mac)


@pytest.mark.parametrize("release", KICKSTARTS)
def test_pykickstart_takes_our_kickstart(release: str) -> None:
    lvm = {"size": "8GiB", "swap": "512MiB", "lvm": True, "filesystem": "xfs"}
    for mirror, changes in (
        (None, {"nics": [{"network": FIXED}], "disk": lvm}),
        ("http://mirror.example/os", {}),
    ):
        context = made("kickstart", release, mirror, **changes)
        text = render("kickstart", context)
        assert validate("kickstart", text, target=context.target, where="ours") == []


def test_checking_answers_leaves_no_copy_of_them_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    context = made("kickstart", "RHEL9", None)
    validate("kickstart", render("kickstart", context), target=context.target, where="ours")
    assert list(tmp_path.iterdir()) == []


def test_pykickstart_names_the_line_of_a_wrong_option() -> None:
    target = target_of("kickstart", "RHEL9", "", "rhel")
    with pytest.raises(SpecError) as caught:
        validate("kickstart", "text\nlang en_US\nnetwork --nonsense\n", target=target, where="mine")
    assert "mine" in str(caught.value) and "line 3" in str(caught.value)


def test_a_kickstart_for_a_later_release_is_refused_for_an_older_one() -> None:
    context = made("kickstart", "RHEL9", None)
    text = render("kickstart", context)
    with pytest.raises(SpecError):
        validate(
            "kickstart", text, target=target_of("kickstart", "RHEL5", "", "rhel"), where="ours"
        )


@pytest.mark.parametrize("release", ["focal", "jammy", "noble"])
def test_our_autoinstall_is_yaml_with_known_keys(release: str) -> None:
    for disk in ({"size": "8GiB"}, {"size": "8GiB", "lvm": True, "swap": "1GiB"}):
        context = made("autoinstall", release, None, disk=disk, nics=[{"network": FIXED}])
        text = render("autoinstall", context)
        assert validate("autoinstall", text, target=context.target, where="ours") == []
