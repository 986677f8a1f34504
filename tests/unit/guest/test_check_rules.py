"""The pure parts of the linter: edits of command lines, and verdicts on boot paths."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.guest.bootpaths import PATHS, BootFacts, boot_paths
from imagekit.guest.bootscan import BootScan, pygrub_result
from imagekit.guest.checks.console import default_with_hvc0, with_hvc0
from imagekit.guest.checks.fstab import named_partition
from imagekit.guest.disks import Disk, FileSystem
from imagekit.guest.kernels import _version
from imagekit.guest.osfiles import parse_fstab, parse_os_release
from imagekit.kernel.bootconfig import PygrubRefusal, pygrub_view

CONFIG = "menuentry 'A' {\n linux /vmlinuz ro\n initrd /initrd\n}\n"
EXT4 = FileSystem("/dev/sda1", 1, "ext4", "u", None, 1 << 20)
DISK = Disk("gpt", (), (EXT4,), (), False)


def scanned(
    text: str | None = CONFIG, obstacle: str | None = None, missing: tuple[str, ...] = ()
) -> BootScan:
    texts = {"/boot/grub/grub.cfg": text} if text is not None else {}
    return BootScan(EXT4, obstacle, pygrub_view(texts), missing, texts=texts)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("linux /v ro", "linux /v ro console=tty0 console=hvc0"),
        ("linux /v ro console=tty0\n", "linux /v ro console=tty0 console=hvc0\n"),
        ("linux /v console=ttyS0,115200n8 ro", "linux /v console=hvc0 console=ttyS0,115200n8 ro"),
        ("linux /v console=hvc0 quiet", "linux /v console=hvc0 quiet"),
    ],
)
def test_hvc0_is_added_where_it_does_not_take_the_console_from_hvm(
    line: str, expected: str
) -> None:
    assert with_hvc0(line) == expected


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=80))
def test_adding_hvc0_twice_changes_nothing_more(arguments: str) -> None:
    once = with_hvc0(f"linux /vmlinuz {arguments}")
    assert with_hvc0(once) == once
    assert "console=hvc0" in once


@pytest.mark.parametrize(
    "text",
    [
        'GRUB_CMDLINE_LINUX=""\n',
        "GRUB_CMDLINE_LINUX='quiet'\n",
        "A=1",
        "",
        "GRUB_CMDLINE_LINUX=x\n",
    ],
)
def test_the_grub_default_file_stays_a_shell_file(text: str) -> None:
    import subprocess

    edited = default_with_hvc0(text)
    script = edited + '\nprintf %s "$GRUB_CMDLINE_LINUX"'
    value = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert value.endswith("console=hvc0")
    assert default_with_hvc0(edited) == edited


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("/dev/sda1", 1),
        ("/dev/xvda", 0),
        ("/dev/vda12", 12),
        ("/dev/nvme0n1p3", 3),
        ("/dev/sdb1", None),
        ("/dev/mapper/vg-root", None),
        ("UUID=x", None),
    ],
)
def test_names_of_the_first_disk_mean_its_partitions(name: str, number: int | None) -> None:
    assert named_partition(name) == number


@given(st.text(max_size=400))
def test_any_fstab_and_os_release_is_read(text: str) -> None:
    for line in parse_fstab(text):
        assert text.splitlines()[line.number - 1].split()[0] == line.device
    parse_os_release(text)


def test_kernel_releases_sort_as_versions() -> None:
    names = ["6.9.0-1", "6.10.0-1", "5.10.0-30", "6.9.0-10"]
    assert sorted(names, key=_version) == ["5.10.0-30", "6.9.0-1", "6.9.0-10", "6.10.0-1"]


def test_the_first_file_system_pygrub_reads_decides() -> None:
    other = replace(EXT4, device="/dev/sda2", partition=2)
    unreadable = scanned(obstacle="pygrub does not read xfs")
    good = replace(scanned(), filesystem=other)
    found = pygrub_result((unreadable, scanned(None), good))
    assert not isinstance(found, str)
    assert found[0].filesystem.partition == 2


def test_a_missing_kernel_ends_the_search_as_in_pygrub() -> None:
    assert "not there: /vmlinuz" in pygrub_result((scanned(missing=("/vmlinuz",)), scanned()))


def test_the_reason_names_the_file_system_that_pygrub_cannot_read() -> None:
    assert pygrub_result((scanned(obstacle="pygrub does not read xfs"),)) == (
        "partition 1: pygrub does not read xfs"
    )
    assert isinstance(scanned(None).pygrub, PygrubRefusal)


def test_an_image_with_nothing_in_it_has_a_reason_for_every_path() -> None:
    verdicts = boot_paths(BootFacts(DISK, (), None, None, None))
    assert set(verdicts) == {"pv", "pvh", "hvm"}
    for paths in verdicts.values():
        assert tuple(paths) == PATHS
        assert all(not v.works and v.reason for v in paths.values())
