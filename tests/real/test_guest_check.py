"""The linter on a badly made image: what it finds, what it repairs, and what stays."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from oracles.guest_images import (
    ROOT_UUID,
    content,
    debian_tree,
    debugfs,
    host_kernel,
    initrd_with,
    partitioned,
)
from typer import Typer
from typer.testing import CliRunner

from imagekit.cli.check import check as command
from imagekit.errors import CapabilityError
from imagekit.guest.check import check
from imagekit.guest.findings import Finding
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import workspace

pytestmark = pytest.mark.real

GRUB_CFG = """\
set default="0"
menuentry 'Debian' {{
        linux /boot/vmlinuz-{release} root=/dev/sda1 ro console=ttyS0,115200n8
        initrd /boot/initrd.img-{release}
}}
"""
UPDATE_INITRAMFS = b"""#!/bin/sh
# Stands for the real one: takes -u -k RELEASE and needs the drivers to be listed.
read -r first < /etc/initramfs-tools/modules
[ "$1 $2 $first" = "-u -k xen-blkfront" ] || { echo "wrong: $1 $2 $first" >&2; exit 1; }
cat /boot/good-initrd > "/boot/initrd.img-$3"
"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image as many builders leave it: made for /dev/sda, ttyS0 and one machine."""
    directory = tmp_path_factory.mktemp("bad")
    release, kernel = host_kernel()
    tree = debian_tree()
    text = {
        "boot/grub/grub.cfg": GRUB_CFG.format(release=release),
        "etc/default/grub": 'GRUB_CMDLINE_LINUX="console=ttyS0,115200n8"\n',
        "etc/fstab": "# keep me\n/dev/sda1\t/ ext4 defaults 0 1\n"
        "UUID=11111111-2222-3333-4444-555555555555 none swap sw 0 0\n",
        "etc/network/interfaces": "auto ens3\niface ens3 inet dhcp\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/ssh/ssh_host_ed25519_key": "secret\n",
        "etc/udev/rules.d/70-persistent-net.rules": "x\n",
        "var/lib/dhcp/dhclient.eth0.leases": "lease\n",
        "etc/initramfs-tools/initramfs.conf": "MODULES=dep\n",
        "etc/securetty": "tty1\n",
    }
    tree.files |= {name: value.encode() for name, value in text.items()}
    tree.files |= {
        f"boot/vmlinuz-{release}": kernel.read_bytes(),
        f"boot/initrd.img-{release}": initrd_with("block/virtio_blk", release=release),
        "boot/good-initrd": initrd_with("block/xen-blkfront", release=release),
        "usr/sbin/update-initramfs": UPDATE_INITRAMFS,
    }
    tree.modes["usr/sbin/update-initramfs"] = 0o755
    tree.links["etc/systemd/system/serial-getty@hvc0.service"] = "/dev/null"
    return partitioned(tree, directory / "bad.raw", directory)


@pytest.fixture(scope="module")
def findings(bad: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    directory = tmp_path_factory.mktemp("work")
    with workspace(Events(), directory) as space:
        return check(bad, "raw", ["pv"], workspace=space)


def test_every_fault_is_found_with_its_consequence_and_its_repair(findings: list[Finding]) -> None:
    codes = {(finding.code, finding.severity) for finding in findings}
    assert codes >= {
        ("no-boot-path", "error"),
        ("initrd-blkfront", "error"),
        ("root-by-device", "error"),
        ("fstab-by-device", "error"),
        ("fstab-missing", "warning"),
        ("console", "warning"),
        ("getty", "warning"),
        ("nic-name", "warning"),
        ("initramfs-dep", "warning"),
        ("persistent-net-rules", "info"),
        ("baked-machine-id", "info"),
        ("baked-ssh-host-keys", "info"),
        ("baked-dhcp-leases", "warning"),
    }
    assert all(f.consequence and f.fix for f in findings)
    assert [f.severity for f in findings] == sorted(
        (f.severity for f in findings), key=["error", "warning", "info"].index
    )


def test_fix_repairs_what_is_safe_and_says_what_is_left(
    bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "image.raw"
    subprocess.run(["cp", "--sparse=always", bad, image], check=True)
    app = Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(image), "--mode", "pv", "--fix", "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    left = {finding["code"] for finding in report["findings"]}
    assert left == {"nic-name", "fstab-missing", "baked-ssh-host-keys"}
    release, _ = host_kernel()
    fstab = content(image, "/etc/fstab").splitlines()
    assert fstab[:2] == ["# keep me", f"UUID={ROOT_UUID}\t/ ext4 defaults 0 1"]
    kernel_line = re.findall(r"linux .*", content(image, "/boot/grub/grub.cfg"))[0]
    arguments = "ro console=hvc0 console=ttyS0,115200n8"
    assert kernel_line == f"linux /boot/vmlinuz-{release} root=UUID={ROOT_UUID} {arguments}"
    assert 'GRUB_CMDLINE_LINUX="console=hvc0 console=ttyS0,115200n8"' in content(
        image, "/etc/default/grub"
    )
    assert content(image, "/etc/initramfs-tools/modules") == "xen-blkfront\nxen-netfront\n"
    assert "hvc0" in content(image, "/etc/securetty")
    assert content(image, "/etc/machine-id") == ""
    assert content(image, "/etc/ssh/ssh_host_ed25519_key") == "secret\n"
    assert "dhclient" not in debugfs(image, "ls /var/lib/dhcp")
    assert "serial-getty" not in debugfs(image, "ls /etc/systemd/system")
    fsck = subprocess.run(["/usr/sbin/e2fsck", "-fn", f"{image}?offset={1 << 20}"])
    assert fsck.returncode == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_errors_end_with_the_exit_code_of_a_capability(
    bad: Path, findings: list[Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagekit.cli.check.guest_check", lambda *_a, **_k: findings)
    app = Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(bad)])
    assert isinstance(result.exception, CapabilityError)
    assert result.exception.exit_code == 8
    assert "--fix" in str(result.exception.hint)
    assert "xen_blkfront" in result.stdout
