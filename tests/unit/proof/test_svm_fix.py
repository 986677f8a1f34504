"""One instruction of QEMU is corrected, or nothing at all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from imagekit.proof import svm_fix
from imagekit.proof.svm_fix import NOP, corrected, main

# helper_vmrun of Debian's QEMU 1:7.2+dfsg-7+deb12u18+b3, from the vector to the call.
CODE = bytes.fromhex(
    "410fb6f4 4489ab80330000 89b354efffff c7838433000000000000 48c78388330000ffffffff"
    "f605ba45b60002 0f856c010000 ba01000000 4889df e8a74f0500"
)
NOISE = random.Random(7).randbytes(4096)


def test_the_store_of_the_vector_becomes_a_nop_and_nothing_else_changes() -> None:
    fixed = corrected(NOISE + CODE + NOISE)
    assert fixed == NOISE + CODE.replace(bytes.fromhex("89b354efffff"), NOP) + NOISE


def test_other_offsets_of_fields_and_jumps_are_no_other_code() -> None:
    other = CODE.replace(bytes.fromhex("54efffff"), b"\x0a\xee\xff\xff")
    fixed = corrected(other.replace(bytes.fromhex("80330000"), b"\n\0\0\0"))
    assert fixed is not None
    assert NOP in fixed


@pytest.mark.parametrize(
    "program",
    [b"", NOISE, CODE * 2, CODE[:20] + b"\x90" + CODE[20:], CODE.replace(b"\xba\x01", b"\xba\x02")],
)
def test_a_program_that_is_not_known_is_left_alone(tmp_path: Path, program: bytes) -> None:
    assert corrected(program) is None
    path = tmp_path / "qemu"
    path.write_bytes(program)
    assert main(str(path)) == 3
    assert path.read_bytes() == program


def test_a_corrected_program_is_not_corrected_again(tmp_path: Path) -> None:
    path = tmp_path / "qemu"
    path.write_bytes(CODE)
    assert main(str(path)) == 0
    assert main(str(path)) == 3


def test_it_runs_as_a_program_by_itself() -> None:
    text = Path(svm_fix.__file__).read_text()
    assert "import imagekit" not in text
    assert "from imagekit" not in text
