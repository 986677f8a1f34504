"""Runs in the build tree: corrects one instruction of the QEMU that the lab runs in.

When VMRUN injects an interrupt (EVENTINJ), QEMU delivers it and leaves its vector behind as an
exception that is still to come (``cs->exception_index``, helper_vmrun in target/i386/tcg/sysemu/
svm_helper.c; seen in Debian's 7.2). If the emulation is asked to stop before anything resets that,
for a timer or at the end of an instruction budget, it delivers the same interrupt once more: on a
kernel that has not yet switched to its own GS, with an error code that the handler does not expect
(vector 8 in firmware), or so that an interrupt is acknowledged twice. A PVH kernel's panic on its
entry stack shows it. It may also be why HVM guests lost their firmware or stood still.

``main`` takes the file of a QEMU for x86_64 and overwrites the store of the vector with a NOP. The
pattern is that store among its neighbours, with any offsets of fields and jumps. Imports nothing
but Python, because it runs as a program by itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

NOP = b"\x66\x0f\x1f\x44\x00\x00"
STORE = re.compile(
    b"\x41\x0f\xb6\xf4"  # movzbl %r12b,%esi: the vector
    b"\x44\x89\xab.{4}"  # mov %r13d,OFFSET(%rbx): env->error_code
    b"(\x89\xb3.{4})"  # mov %esi,OFFSET(%rbx): cs->exception_index
    b"\xc7\x83.{4}\0{4}"  # movl $0,OFFSET(%rbx): env->exception_is_int
    b"\x48\xc7\x83.{4}\xff{4}"  # movq $-1,OFFSET(%rbx): env->exception_next_eip
    b"\xf6\x05.{4}\x02\x0f\x85.{4}"  # testb $2,qemu_loglevel; jne
    b"\xba\x01\0{3}\x48\x89\xdf\xe8",  # mov $1,%edx; mov %rbx,%rdi; call do_interrupt_x86_hardirq
    re.DOTALL,
)


def corrected(program: bytes) -> bytes | None:
    """``program`` without the store, or None where the pattern is not there exactly once."""
    found = list(STORE.finditer(program))
    if len(found) != 1:
        return None
    start, end = found[0].span(1)
    return program[:start] + NOP + program[end:]


def main(name: str) -> int:
    """Correct the file ``name``; 0 when that was done, 3 when there is nothing to correct."""
    path = Path(name)
    fixed = corrected(path.read_bytes())
    if fixed is None:
        return 3
    path.write_bytes(fixed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
