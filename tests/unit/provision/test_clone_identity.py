"""Clones of one image are two machines, also when the image was booted before."""

from __future__ import annotations

from pathlib import Path

from imagekit.guest.backends.tree import tree_files
from imagekit.provision.identity import forget_golden

OF_ONE_MACHINE = (
    *(
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "etc/ssh/ssh_host_rsa_key",
    ),
    *(
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
        "var/lib/dhcp/dhclient.eth0.leases",
    ),
)


def test_what_makes_two_clones_one_machine_is_taken_out(tmp_path: Path) -> None:
    for name in (*OF_ONE_MACHINE, "etc/machine-id", "etc/ssh/sshd_config"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "usr/bin").mkdir(parents=True)
    with tree_files(tmp_path) as files:
        forget_golden(files)
    assert (tmp_path / "etc/machine-id").read_text() == ""
    assert [name for name in OF_ONE_MACHINE if (tmp_path / name).exists()] == []
    assert (tmp_path / "etc/ssh/sshd_config").exists()
