"""A processor that runs in a circle is told from one that works, waits or is elsewhere.

``oracles/registers`` holds what QEMU's monitor said every half second, shortened to the lines that
count: of guests that the emulation lost, and of others that were well.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from oracles.builds import ROOT

from imagekit.proof.circling import SAMPLES, Circling, registers

RECORDED = ROOT / "tests/oracles/registers"

REAL = """
CPU#0
EAX={eax:08x} EBX=00000000 ECX=00000000 EDX=00000000
ESI=00000000 EDI=00000000 EBP=00000000 ESP={esp:08x}
EIP={eip:08x} EFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT={halted}
CS =f000 000f0000 0000ffff 00009e00
"""
LONG = """
CPU#0
RAX=0000000000000000 RBX=ffff830000000000
RIP=ffff82d040200000 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
CS =e008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
"""


def real(eax: int, eip: int = 0, esp: int = 0, halted: int = 0) -> str:
    return REAL.format(eax=eax, eip=eip, esp=esp, halted=halted)


def circling() -> Circling:
    return Circling(None)  # type: ignore[arg-type]  # samples are given, none is taken


def recorded(name: str) -> list[str]:
    return (RECORDED / f"{name}.txt").read_text().split("\n\n")


def test_registers_are_those_of_16_and_32_bit_code() -> None:
    assert registers(real(0x12)) == ("00000012", *["00000000"] * 6)
    assert registers(LONG) is None
    assert registers("Unknown command\r\n") is None


@pytest.mark.parametrize("name", ["invalid-opcode", "zeros"])
def test_guests_that_were_lost_are_seen(name: str) -> None:
    watch = circling()
    assert [watch.sample(said) for said in recorded(name)][-1]


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.txt")))
def test_recordings_show_code_of_an_hvm_guest(name: str) -> None:
    assert len(recorded(name)) > SAMPLES
    assert any(registers(said) for said in recorded(name))


@pytest.mark.parametrize("name", ["grub-menu", "memtest", "kernel-32-bit", "reading-by-pio"])
def test_guests_that_were_well_are_left_alone(name: str) -> None:
    watch = circling()
    assert not any(watch.sample(said) for said in recorded(name))


def test_a_stack_pointer_that_comes_and_goes_is_no_work() -> None:
    watch = circling()
    said = [watch.sample(real(1, eip=n % 2, esp=0xFC6A + 6 * (n % 2))) for n in range(SAMPLES)]
    assert said == [False] * (SAMPLES - 1) + [True]


def test_the_hypervisors_timer_does_not_hide_a_circle() -> None:
    watch = circling()
    said = [watch.sample(LONG if n % 8 == 0 else real(1)) for n in range(SAMPLES)]
    assert said[-1]


def test_a_machine_that_rests_now_and_then_is_not_in_a_circle() -> None:
    watch = circling()
    for n in range(5 * SAMPLES):
        assert not watch.sample(real(1, halted=int(n % (SAMPLES - 1) == 0)))


def test_a_machine_that_is_mostly_elsewhere_is_not_in_a_circle() -> None:
    watch = circling()
    for n in range(5 * SAMPLES):
        assert not watch.sample(LONG if n % 3 == 0 else real(1))


def test_a_loop_of_one_instruction_that_counts_is_work() -> None:
    watch = circling()
    for n in range(5 * SAMPLES):
        assert not watch.sample(real(n, eip=0x1000))


def test_only_64_bit_code_is_no_circle() -> None:
    watch = circling()
    assert not any(watch.sample(LONG) for _ in range(2 * SAMPLES))


def test_recordings_are_short() -> None:
    assert all(Path(path).stat().st_size < 32768 for path in RECORDED.glob("*.txt"))
