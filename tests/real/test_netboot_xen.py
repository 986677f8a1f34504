"""A PV guest that pypxeboot boots under a real Xen: Debian's installer, then its own disk.

The mirrors of test machines often carry no udebs, without which the installer stops at "Download
installer components"; so this shows that it starts, fetches our answers and runs their early
command. The disk that the same config boots afterwards is the demo image.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from oracles.builds import Build, Run
from oracles.proofs import assert_up, report_of

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]
MAC = "00:16:3e:37:1e:ee"
REQUEST = """name: web01
mac: {mac}
installer: {{package: debian-installer-12-netboot-amd64}}
args: auto=true priority=critical DEBIAN_FRONTEND=noninteractive url={{answers}} console=hvc0
answers: preseed.cfg
"""
ANSWERS = (
    "d-i preseed/early_command string "
    'echo "imagekit: early command of $(hostname) at $(uname -r)" >/dev/hvc0\n'
)
CONFIG = """name = "web01"
type = "pv"
memory = 1024
bootloader = "pypxeboot"
bootloader_args = [ "--mac={mac}", "--interface=xenbr0", "{how}" ]
disk = [ "format=raw, vdev=xvda, access=rw, target=/srv/guests/web01.raw" ]
vif = [ "mac={mac}, bridge=xenbr0" ]
on_reboot = "restart"
"""
# dom0's emulated processor needs a minute more for the installer's initrd by TFTP.
BY_HTTP, BY_TFTP = "--http=http://198.18.0.1", "--dhcp=request"


@pytest.fixture(scope="module")
def site(imagekit: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A boot server's tree with Debian's installer for one guest, and that guest's xl config."""
    base = tmp_path_factory.mktemp("site")
    (base / "web01.yaml").write_text(REQUEST.format(mac=MAC))
    (base / "preseed.cfg").write_text(ANSWERS)
    (base / "web01.cfg").write_text(CONFIG.format(mac=MAC, how=BY_HTTP))
    imagekit(
        *("netboot", "publish", base / "web01.yaml"),
        *("--root", base / "tree", "--http", "http://198.18.0.1"),
    )
    return base


def prove(
    site: Path, imagekit: Run, demo: Build, out: Path, *args: str, config: Path | None = None
) -> dict[str, Any]:
    """The report on the one boot, with ``loader`` as what the bootloader said."""
    config = config or site / "web01.cfg"
    words = ["--config", config, "--image", demo.disk("raw"), "-o", out]
    imagekit("prove", *words, "--netboot", site / "tree", *args, check=False, timeout=1500)
    (boot,) = report_of(out)["boots"]
    assert boot["config_sha256"] == hashlib.sha256(config.read_bytes()).hexdigest()
    assert (boot["mode"], boot["boot"]) == ("pv", "netboot")
    (log,) = (out / "proof").glob("*/bootloader.*.log")
    return {**boot, "loader": log.read_text()}


def test_the_installer_boots_fetches_our_answers_and_runs_their_command(
    site: Path, imagekit: Run, demo: Build, tmp_path: Path
) -> None:
    boot = prove(site, imagekit, demo, tmp_path, "--expect", r"^imagekit: early command of \S+ at ")
    assert boot["ok"], boot["failure"]
    assert (boot["guest_type"], boot["nics"]) == ("PV", [MAC])
    assert boot["dhcp"][MAC].startswith("198.18.0.")
    assert f"pypxeboot: config pxelinux.cfg/01-{MAC.replace(':', '-')}" in boot["loader"]
    assert "pypxeboot: initrd http://198.18.0.1/images/" in boot["loader"]
    console = Path(boot["console"]).read_text(errors="replace")
    assert "url=http://198.18.0.1/answers/" in console


@pytest.mark.long
def test_the_same_config_boots_the_guests_own_disk_once_it_is_flipped(
    site: Path, imagekit: Run, demo: Build, tmp_path: Path
) -> None:
    imagekit("netboot", "flip", "web01", "local", "--root", site / "tree")
    boot = prove(site, imagekit, demo, tmp_path)
    assert_up(boot, "PV")
    assert "booting the guest's own disk" in boot["loader"]


def test_a_guest_that_the_boot_server_does_not_know_is_not_created_and_says_why(
    site: Path, imagekit: Run, demo: Build, tmp_path: Path
) -> None:
    (tmp_path / "other.cfg").write_text(CONFIG.format(mac="00:16:3e:37:1e:01", how=BY_TFTP))
    boot = prove(site, imagekit, demo, tmp_path, config=tmp_path / "other.cfg")
    assert boot["failure"]["cause"] == "netboot-failed"
    assert "no config for this guest" in boot["failure"]["evidence"]
