"""The script that a Xen host runs an installation by, against an xl that plays scenes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagekit.installs.stages.onhost import menu_arguments, with_consoles
from imagekit.installs.stages.onhost_script import script

NAME = "web01"
XL = """#!/bin/sh
# Plays scenes/1, scenes/2, ...: what "xl list -v" shows of the guest, or "gone".
set -eu
cd "$(dirname "$0")"
echo "$@" >>calls
case $1 in
create)
	case $(cat installer) in good) printf data | dd of=disk conv=notrunc 2>/dev/null ;; esac
	readlink "$2" >>created || echo "$2" >>created
	;;
list)
	[ ! -e broken ] || exit 1
	head='Name ID Mem VCPUs State Time(s) UUID Reason-Code Security-Label'
	echo "$head"
	echo "Domain-0 0 640 1 r----- 9.9 00000000-0000-0000-0000-000000000000 - -"
	n=$(($(cat count 2>/dev/null || echo 0) + 1))
	echo $n >count
	[ ! -e scenes/$n ] || scene=$(cat scenes/$n)
	[ -z "${scene-}" ] || [ "$scene" = gone ] || echo "web01 5 2048 1 $scene"
	;;
esac
"""
RUNNING = "r----- 1.0 d72c12fb-689c-5371-baca-cb85f0818a7e - -"
REBOOTED = "---s-- 1.0 d72c12fb-689c-5371-baca-cb85f0818a7e 1 -"
POWERED_OFF = "---s-- 1.0 d72c12fb-689c-5371-baca-cb85f0818a7e 0 -"
DYING = "--ps-d 1.0 d72c12fb-689c-5371-baca-cb85f0818a7e 1 -"
CRASHED = "----c- 1.0 d72c12fb-689c-5371-baca-cb85f0818a7e 3 -"


@dataclass
class Host:
    """A directory with the script, configs and an xl beside it."""

    path: Path

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the script; it polls without waiting."""
        env = {"PATH": f"{self.path}/bin:/usr/bin:/bin", "POLL_SECONDS": "1"}
        return subprocess.run(
            ["sh", self.path / "out" / f"{NAME}.on-host.sh", *args],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def play(self, *scenes: str, installer: str = "good") -> None:
        """What the next calls of ``xl list`` show."""
        base = self.path / "bin"
        for number, scene in enumerate(scenes, 1):
            (base / "scenes" / str(number)).write_text(scene)
        (base / "installer").write_text(installer)

    @property
    def created(self) -> list[str]:
        """The configs that domains were created from."""
        file = self.path / "bin/created"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    out, base = tmp_path / "out", tmp_path / "bin"
    (base / "scenes").mkdir(parents=True)
    out.mkdir()
    (base / "xl").write_text(XL)
    (base / "xl").chmod(0o755)
    sleep = base / "sleep"
    sleep.write_text("#!/bin/sh\n")
    sleep.chmod(0o755)
    text = script(NAME, out, ("pv", "hvm"), 1 << 20, 5)
    (out / f"{NAME}.on-host.sh").write_text(text)
    (base / "disk").symlink_to(out / f"{NAME}.raw")
    host = Host(tmp_path)
    host.play()
    return host


def link(host: Host) -> str:
    return str((host.path / f"out/{NAME}.cfg").readlink())


def test_an_installation_ends_with_the_config_that_boots_the_disk(host: Host) -> None:
    host.play("gone", RUNNING, RUNNING, POWERED_OFF, DYING, "gone")
    done = host.run("install")
    assert done.returncode == 0, done.stderr
    assert host.created == ["web01.pv.install.xl.cfg"]
    assert link(host) == "web01.pv.xl.cfg"
    disk = host.path / "out/web01.raw"
    assert disk.stat().st_size == 1 << 20 and disk.stat().st_mode & 0o777 == 0o600
    assert host.run("start").returncode == 0
    assert host.created[-1] == "web01.pv.xl.cfg"


def test_another_mode_is_installed_by_its_own_configs(host: Host) -> None:
    assert host.run("install", "hvm").returncode == 0
    assert host.created == ["web01.hvm.install.xl.cfg"] and link(host) == "web01.hvm.xl.cfg"


@pytest.mark.parametrize(
    ("scenes", "said"),
    [
        ([REBOOTED], "rebooted instead of powering off"),
        ([RUNNING, CRASHED], "crashed"),
        ([RUNNING] * 9, "takes longer than 5 s"),
    ],
)
def test_an_installer_that_does_not_power_off_is_told_and_nothing_is_flipped(
    host: Host, scenes: list[str], said: str
) -> None:
    host.play("gone", *scenes)
    done = host.run("install")
    assert done.returncode == 1 and said in done.stderr
    assert link(host) == "web01.pv.install.xl.cfg"


def test_an_installer_that_wrote_nothing_is_no_success(host: Host) -> None:
    host.play("gone", RUNNING, "gone", installer="bad")
    done = host.run("install")
    assert done.returncode == 1 and "disk empty" in done.stderr


def test_a_running_domain_and_a_full_disk_are_left_alone(host: Host) -> None:
    host.play(RUNNING)
    assert "the domain exists" in host.run("install").stderr
    disk = host.path / "out/web01.raw"
    disk.write_bytes(bytes(5000) + b"precious")
    done = host.run("install")
    assert done.returncode == 1 and "holds data" in done.stderr and host.created == []
    assert disk.read_bytes().endswith(b"precious")
    assert host.run("install", "--force").returncode == 0


def test_an_xl_that_fails_is_not_taken_for_a_guest_that_is_gone(host: Host) -> None:
    (host.path / "bin/broken").touch()
    done = host.run("install")
    assert done.returncode == 1 and "xl list fails" in done.stderr and host.created == []


def test_flipping_chooses_the_config_and_refuses_what_it_does_not_know(host: Host) -> None:
    assert host.run("flip", "install", "hvm").returncode == 0
    assert link(host) == "web01.hvm.install.xl.cfg"
    assert host.run("flip", "local").returncode == 0
    assert link(host) == "web01.pv.xl.cfg"
    for words in ([], ["flip"], ["flip", "away"], ["install", "pvh"], ["boot"]):
        assert host.run(*words).returncode == 2


def test_a_script_that_was_moved_says_where_it_belongs(host: Host) -> None:
    (host.path / "out").rename(host.path / "elsewhere")
    (host.path / "out").symlink_to(host.path / "elsewhere")
    assert host.run("flip", "local").returncode == 0
    (host.path / "out").unlink()
    moved = ["sh", str(host.path / "elsewhere/web01.on-host.sh"), "flip", "local"]
    done = subprocess.run(moved, capture_output=True, text=True)
    assert done.returncode == 1 and "put this directory there" in done.stderr


@pytest.mark.parametrize("directory", ["/srv/a b", "/srv/it's", "/srv/$(id)`id`;x"])
def test_a_directory_of_any_name_is_only_a_word_to_the_shell(directory: str) -> None:
    text = script(NAME, Path(directory), ("pv",), 1, 1)
    head = text.split("set -eu")[0] + 'printf "%s" "$DISK"'
    done = subprocess.run(["sh"], input=head, capture_output=True, text=True, check=True)
    assert done.stdout == f"{directory}/web01.raw"
    assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize(
    ("path", "line", "words"),
    [
        (
            "/isolinux/isolinux.cfg",
            r"inst.stage2=hd:LABEL=RHEL\x209 inst.ks=file:/ks.cfg console=tty0",
            r"inst.stage2=hd:LABEL=RHEL\x209 inst.ks=file:/ks.cfg console=hvc0",
        ),
        (
            "/boot/grub/grub.cfg",
            "autoinstall 'ds=nocloud;s=/cdrom/autoinstall/' console=ttyS0,115200n8 --- quiet",
            "autoinstall ds=nocloud;s=/cdrom/autoinstall/ console=hvc0",
        ),
    ],
)
def test_a_menus_arguments_lose_its_quoting_and_its_consoles(
    path: str, line: str, words: str
) -> None:
    assert with_consoles(menu_arguments(path, line), "pv") == words
