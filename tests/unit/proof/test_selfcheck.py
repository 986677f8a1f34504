"""What the guests of the lab's self-check say is read right, and anything else fails the lab."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from imagekit.errors import HostError, ImageError, LabError
from imagekit.proof import checkprograms
from imagekit.proof.boots import Trial
from imagekit.proof.busy import Allotment
from imagekit.proof.checkprograms import pattern, pattern_sum
from imagekit.proof.selfcheck import verdict
from imagekit.proof.selfcheck.guests import HOME
from imagekit.proof.selfcheck.verdict import SAID, LabCheck
from imagekit.proof.session import Seen
from imagekit.proof.xlcfg import parse_config

RIGHT = f"LAB-HVM dma=1 sum={pattern_sum():08X}\r\n"


def seen(directory: Path, mode: str, verdict: str = "up", **logs: str) -> Seen:
    for name, text in logs.items():
        (directory / f"{name}.log").write_text(text)
    config = parse_config(f'name = "lab-{mode}"\ntype = "{mode}"\n'.encode(), directory / "x.cfg")
    return Seen(Trial(f"lab-{mode}", config), directory, verdict, 12.0, Allotment(12.0, 0.0))


def test_rounds_without_a_wrong_register_are_counted(tmp_path: Path) -> None:
    console = "[    1.0] hello\r\n......\r\nLAB-REGISTERS wrong=0 of=153\r\n"
    assert verdict.registers(seen(tmp_path, "pv", console=console)) == 153


@pytest.mark.parametrize(("wrong", "rounds"), [(1, 153), (153, 153), (0, 0)])
def test_a_wrong_register_fails_the_lab_and_so_does_no_round(
    tmp_path: Path, wrong: int, rounds: int
) -> None:
    console = f"\nLAB-REGISTERS wrong={wrong} of={rounds}\n"
    with pytest.raises(LabError, match=f"{wrong} of {rounds} times a PVH guest") as caught:
        verdict.registers(seen(tmp_path, "pvh", console=console))
    assert caught.value.hint
    assert "eager-fpu" in caught.value.hint


@pytest.mark.parametrize("console", ["", "LAB-REGISTERS wrong= of=3\n", "LAB-REGISTERS wrong=0 of"])
def test_a_guest_that_says_nothing_fails_the_lab(tmp_path: Path, console: str) -> None:
    with pytest.raises(LabError, match="did not come up"):
        verdict.registers(seen(tmp_path, "pv", "timeout", console=console))


def test_what_a_lost_guest_said_last_is_the_evidence(tmp_path: Path) -> None:
    lost = seen(tmp_path, "pv", "lost", console="a\nb\n\x1b[31mKernel panic - not syncing: x\n")
    with pytest.raises(LabError, match=r"lost after 12 s\): a \| b \| Kernel panic"):
        verdict.registers(lost)


def test_what_xl_said_of_a_guest_that_did_not_start_is_the_evidence(tmp_path: Path) -> None:
    xl = "libxl: debug: x\nlibxl: error: libxl_dom.c:1: no such kernel\n"
    with pytest.raises(LabError, match=r"create after 12 s\): libxl: error: .*no such kernel"):
        verdict.registers(seen(tmp_path, "pvh", "create", xl=xl))


def test_a_disk_read_right_and_by_dma_is_right(tmp_path: Path) -> None:
    verdict.disk(seen(tmp_path, "hvm", serial=RIGHT))


@pytest.mark.parametrize(
    ("serial", "reason"),
    [
        (RIGHT.replace("dma=1", "dma=0"), "without DMA"),
        (RIGHT.replace("sum=", "sum=0")[:-3] + "\r\n", "something else"),
        ("LAB-HVM error=80\r\n", "did not come up .*error=80"),
        ("", "did not come up"),
    ],
)
def test_a_disk_read_wrong_or_otherwise_is_not(tmp_path: Path, serial: str, reason: str) -> None:
    with pytest.raises(LabError, match=reason):
        verdict.disk(seen(tmp_path, "hvm", serial=serial))


@pytest.mark.parametrize("line", [RIGHT, "LAB-REGISTERS wrong=0 of=1\n", "LAB-HVM error=80\r\n"])
def test_every_line_of_the_guests_ends_their_trial(line: str) -> None:
    assert SAID.search("BIOS\n" + line.replace("\r", ""))


def test_a_broken_lab_is_the_hosts_fault_and_not_an_images() -> None:
    assert issubclass(LabError, HostError)
    assert (LabError.exit_code, LabError.kind) == (4, "lab")


def test_a_passed_check_is_kept_and_worded(tmp_path: Path) -> None:
    passed = LabCheck(155, 151)
    passed.write(tmp_path / "check.json")
    assert LabCheck.read(tmp_path / "check.json") == passed
    assert str(passed) == "registers 0 of 306 wrong, disk reads by DMA"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pv_rounds": "x", "pvh_rounds": 1}'])
def test_a_damaged_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "check.json").write_text(text)
    with pytest.raises(ImageError):
        LabCheck.read(tmp_path / "check.json")


def test_the_boot_sector_reads_all_of_the_pattern() -> None:
    source = (checkprograms.SOURCES / checkprograms.DISK).read_text()
    found = re.search(r"^\.set BLOCKS, (\d+)$", source, re.MULTILINE)
    assert found is not None
    assert int(found[1]) * 64 * checkprograms.SECTOR == len(pattern())
    sectors = {pattern()[n : n + 512] for n in range(0, len(pattern()), 512)}
    assert len(sectors) == len(pattern()) // 512


def test_the_sum_depends_on_the_order_of_sectors(monkeypatch: pytest.MonkeyPatch) -> None:
    right, data = pattern_sum(), pattern()
    monkeypatch.setattr(checkprograms, "pattern", lambda: data[512:] + data[:512])
    assert pattern_sum() != right
    monkeypatch.setattr(checkprograms, "pattern", lambda: struct.pack("<II", 0x80000001, 2))
    assert pattern_sum() == 5


def test_the_guests_files_are_nowhere_in_dom0() -> None:
    assert not HOME.startswith(("/usr", "/etc", "/run"))
