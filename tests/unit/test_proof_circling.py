"""A processor that runs in a circle is told from one that works, waits or is elsewhere."""

from __future__ import annotations

import random

from imagekit.proof.circling import PLACES, SAMPLES, Circling, place

# What QEMU 7.2 says of a processor in real mode and in 64-bit mode, shortened.
REAL = """
CPU#0
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000000
EIP={ip:08x} EFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT={halted}
ES =d980 000d9800 0000ffff 00009300
CS ={cs:04x} 000d9800 0000ffff 00009e00
"""
LONG = """
CPU#0
RAX=0000000000000000 RBX=ffff830000000000
RIP=ffff82d040200000 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
CS =e008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
"""


def real(ip: int, cs: int = 0xF000, halted: int = 0) -> str:
    return REAL.format(ip=ip, cs=cs, halted=halted)


def circling() -> Circling:
    return Circling(None)  # type: ignore[arg-type]  # samples are given, none is taken


def test_places_are_read_from_registers() -> None:
    assert place(real(0xFF53)) == ("f000", "0000ff53")
    assert place(LONG) is None
    assert place("Unknown command\r\n") is None


def test_two_alternating_instructions_are_a_circle() -> None:
    watch = circling()
    both = [real(0xFF53), real(0xF15D, cs=0xD980)]
    said = [watch.sample(random.choice(both)) for _ in range(SAMPLES)]
    assert said == [False] * (SAMPLES - 1) + [True]


def test_the_hypervisors_timer_does_not_hide_a_circle() -> None:
    watch = circling()
    said = [watch.sample(LONG if n % 8 == 0 else real(0xFF53)) for n in range(SAMPLES)]
    assert said[-1]


def test_a_machine_that_rests_now_and_then_is_not_in_a_circle() -> None:
    watch = circling()
    for n in range(5 * SAMPLES):
        assert not watch.sample(real(0xFF53, halted=int(n % (SAMPLES - 1) == 0)))


def test_a_machine_that_is_mostly_elsewhere_is_not_in_a_circle() -> None:
    watch = circling()
    for n in range(5 * SAMPLES):
        assert not watch.sample(LONG if n % 3 == 0 else real(0xFF53))


def test_a_loop_of_more_instructions_is_work() -> None:
    watch = circling()
    for n in range(5 * SAMPLES):
        assert not watch.sample(real(0x1000 + n % (2 * PLACES)))
