"""A small real installer run to its end and harvested; and installers that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles import tiny_installer
from oracles.builds import Build, Run
from oracles.tiny_installer import HASH, KEY

from imagekit.disk import raw
from imagekit.errors import HostError, ImagekitError, ToolError
from imagekit.host.kvm import kvm_works
from imagekit.installs.machine import Hardware
from imagekit.installs.remaster.remaster import remaster
from imagekit.installs.unattended import Limits, run_installer

pytestmark = [pytest.mark.real, pytest.mark.slow]
ANSWERS = (
    "d-i netcfg/get_hostname string stub\n"
    "d-i preseed/early_command string (tail -n +1 -f /var/log/syslog >/dev/ttyS1 2>/dev/null &)\n"
)


def test_the_installed_system_has_what_the_answers_said(tiny: Build, imagekit: Run) -> None:
    guest = json.loads(imagekit("inspect", tiny.disk("raw"), "--json").stdout)
    assert guest["hostname"] == "tiny01"
    assert guest["partition_table"] == "gpt"
    assert {f["type"] for f in guest["filesystems"]} >= {"swap", "ext4"}
    assert guest["default_entry"]["args"].endswith(
        "console=tty0 console=ttyS0,115200n8 console=hvc0"
    )
    listed = guestfish(
        tiny.disk("raw"),
        "cat /root/.ssh/authorized_keys",
        "cat /etc/shadow",
        "cat /etc/initramfs-tools/modules",
        "filesize /etc/machine-id",
    )
    assert KEY in listed
    assert f"root:{HASH}:" in listed
    assert "xen-blkfront\nxen-netfront\n" in listed
    assert listed.rstrip().endswith("\n0")


def guestfish(image: Path, *commands: str) -> str:
    """Read an image with libguestfs's own shell-like program, or its Python binding."""
    import guestfs  # type: ignore[import-untyped, unused-ignore]

    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_backend("direct")
    if not kvm_works().works:
        handle.set_backend_settings(["force_tcg"])
    handle.add_drive_opts(str(image), format="raw", readonly=True)
    handle.launch()
    for device, kind in handle.list_filesystems().items():
        if kind == "ext4":
            handle.mount_ro(device, "/")
    lines = [str(getattr(handle, c.split()[0])(c.split()[1])) for c in commands]
    handle.close()
    return "\n".join(lines)


def test_the_build_has_disks_configs_and_facts_as_every_build(tiny: Build) -> None:
    roles = {a["role"] for a in tiny.manifest["artefacts"]}
    assert roles >= {"disk", "kernel", "initrd", "domain-config", "facts", "answers"}
    assert tiny.manifest["install_method"] == "iso"
    facts = json.loads(tiny.one("facts").read_text())
    assert facts["pygrub"]["ok"] and facts["bootloader_bios"]
    assert facts["cmdline"].startswith("root=UUID=") and "console" not in facts["cmdline"]
    names = {p["name"] for p in tiny.manifest["packages"]}
    assert {"systemd", "linux-image-amd64"} <= names
    for role in ("disk", "answers", "domain-config"):
        for artefact in tiny.manifest["artefacts"]:
            if artefact["role"] == role:
                assert (tiny.path / artefact["path"]).stat().st_mode & 0o077 == 0


def test_the_log_of_the_build_does_not_show_the_password_hash(tiny: Build) -> None:
    for path in tiny.path.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".log"):
            assert HASH.encode() not in path.read_bytes(), path


def test_a_second_build_runs_nothing(tiny: Build) -> None:
    assert all(stage["name"] for stage in tiny.manifest["stages"])
    assert [s["name"] for s in tiny.manifest["stages"]][:5] == [
        *("iso", "answers", "remaster", "install", "harvest")
    ]


@pytest.fixture(scope="module")
def stub(demo: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installer that does what its kernel arguments tell."""
    base = tmp_path_factory.mktemp("stub")
    return tiny_installer.make_stub(base, demo.one("kernel"), demo.one("initrd"))


def install(stub: Path, base: Path, disk: Path, *args: str, idle: float = 120) -> ImagekitError:
    """Run the stub; the error it ends with."""
    for name in ("scratch", "qemu", "logs"):
        (base / name).mkdir()
    made = remaster(stub, base / "x.iso", ANSWERS, scratch=base / "scratch", extra_args=args)
    hardware = Hardware(made.path, disk, 384, kvm_works().works)
    steps: list[str] = []
    with pytest.raises(ImagekitError) as caught:
        run_installer(
            hardware,
            Limits(400, idle),
            scratch=base / "qemu",
            logs=base / "logs",
            note=steps.append,
            mask=lambda text: text.replace("answers read", "***"),
        )
    return caught.value


def blank(path: Path, mebibytes: int = 16) -> Path:
    raw.create(path, mebibytes << 20)
    return path


def test_an_installer_that_hangs_is_stopped_and_its_last_words_are_shown(
    stub: Path, tmp_path: Path
) -> None:
    error = install(stub, tmp_path, blank(tmp_path / "d"), "tiny=hang", idle=40)
    assert isinstance(error, ToolError) and "hangs" in error.what
    assert "tiny-installer: hanging" in error.output


def test_an_installer_that_reboots_is_told_apart_from_one_that_is_done(
    stub: Path, tmp_path: Path
) -> None:
    error = install(stub, tmp_path, blank(tmp_path / "d"), "tiny=reboot")
    assert isinstance(error, ToolError) and "rebooted instead of powering off" in error.what


def test_a_failure_screen_ends_the_run_with_the_installers_syslog(
    stub: Path, tmp_path: Path
) -> None:
    error = install(stub, tmp_path, blank(tmp_path / "d"), "tiny=fail")
    assert isinstance(error, ToolError) and "says that it failed" in error.what
    assert "told to fail" in error.output and "syslog" in error.output
    syslog = (tmp_path / "logs/syslog.log").read_text()
    assert "tiny-installer: told to fail" in syslog
    assert "tiny-installer: ***" in syslog and "answers read" not in syslog + error.output


def test_a_guest_disk_that_is_too_small_is_named(stub: Path, tmp_path: Path) -> None:
    error = install(stub, tmp_path, blank(tmp_path / "d", 2), "tiny=full")
    assert isinstance(error, ToolError) and "too small" in error.what


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("missing: root, to mount a small tmpfs")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_host_disk_is_the_hosts_fault_not_the_installers(
    stub: Path, tmp_path: Path, small_disk: Path
) -> None:
    error = install(stub, tmp_path, blank(small_disk / "d", 64), "tiny=full")
    assert isinstance(error, HostError) and "disk is full" in error.what
