"""The library that is preloaded into xl, with a real liblzma, and the host that answers it."""

from __future__ import annotations

import lzma
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagekit.proof.unpack import SOURCE, Unpacker

pytestmark = pytest.mark.real

# As libxenguest does it: the whole input at once, an output of exactly the right size.
READER = """
import ctypes, sys
class Stream(ctypes.Structure):
    _fields_ = [("next_in", ctypes.c_char_p), ("avail_in", ctypes.c_size_t),
                ("total_in", ctypes.c_uint64), ("next_out", ctypes.c_void_p),
                ("avail_out", ctypes.c_size_t), ("total_out", ctypes.c_uint64),
                ("rest", ctypes.c_uint8 * 88)]
ctypes.CDLL("liblzma.so.5", ctypes.RTLD_GLOBAL)
every = ctypes.CDLL(None)
data = open(sys.argv[1], "rb").read()
size = int(sys.argv[2])
stream, out = Stream(), ctypes.create_string_buffer(size)
assert every.lzma_stream_decoder(ctypes.byref(stream), ctypes.c_uint64(1 << 30), 0) == 0
stream.next_in, stream.avail_in = data, len(data)
stream.next_out, stream.avail_out = ctypes.addressof(out), size
code = every.lzma_code(ctypes.byref(stream), 0)
print(code, stream.total_in, stream.total_out, stream.avail_in, stream.avail_out)
open(sys.argv[3], "wb").write(out.raw)
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    target = tmp_path / "unpack.so"
    places = [f'-DASK="{tmp_path}/share/unpack"', f'-DANSWER="{tmp_path}/files/unpack"']
    argv = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *places]
    subprocess.run([*argv, "-o", str(target), str(SOURCE)], check=True)
    for name in ("share", "files"):
        (tmp_path / name).mkdir()
    return target


@contextmanager
def served(base: Path) -> Iterator[list[str]]:
    """A host that answers; yields the requests it saw."""
    unpacker, over = Unpacker(base / "share", base / "files"), threading.Event()
    seen: list[str] = []

    def loop() -> None:
        while not over.wait(0.02):
            seen.extend(p.name for p in (base / "share/unpack").glob("*.xz"))
            unpacker.serve()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def unpacked(base: Path, library: Path, packed: bytes, size: int) -> tuple[str, bytes]:
    (base / "in").write_bytes(packed)
    argv = [sys.executable, "-c", READER, str(base / "in"), str(size), str(base / "out")]
    env = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip(), (base / "out").read_bytes()


def kernel(size: int) -> bytes:
    """Bytes of which half can be compressed away."""
    return b"".join(
        bytes([n % 251]) * 64 + random.Random(n).randbytes(64) for n in range(size // 128)
    )


def test_the_host_gives_what_liblzma_would_give(tmp_path: Path, library: Path) -> None:
    data = kernel(4 << 20)
    packed = lzma.compress(data, check=lzma.CHECK_CRC32)
    with served(tmp_path) as seen:
        said, found = unpacked(tmp_path, library, packed, len(data))
    assert said == f"1 {len(packed)} {len(data)} 0 0"
    assert found == data
    assert seen
    assert list((tmp_path / "files/unpack").iterdir())


def test_liblzma_judges_what_the_host_refuses(tmp_path: Path, library: Path) -> None:
    data = kernel(4 << 20)
    packed = bytearray(lzma.compress(data, check=lzma.CHECK_CRC32))
    packed[len(packed) // 2] ^= 255
    with served(tmp_path) as seen:
        said, _found = unpacked(tmp_path, library, bytes(packed), len(data))
    assert seen
    assert said.split()[0] == "9"  # LZMA_DATA_ERROR
    assert [p.suffix for p in (tmp_path / "files/unpack").iterdir()] == [".refused"]


def test_small_streams_are_not_asked_for(tmp_path: Path, library: Path) -> None:
    data = kernel(1 << 16)
    with served(tmp_path) as seen:
        said, found = unpacked(tmp_path, library, lzma.compress(data), len(data))
    assert said.split()[0] == "1"
    assert found == data
    assert not seen
