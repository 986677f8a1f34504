"""The host's side of unpacking kernels for dom0, which nobody vouches for."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from imagekit.proof import unpack
from imagekit.proof.unpack import Unpacker

DATA = bytes(range(256)) * 64
PACKED = lzma.compress(DATA)


@pytest.fixture
def served(tmp_path: Path) -> tuple[Unpacker, Path, Path]:
    for name in ("share", "files"):
        (tmp_path / name).mkdir()
    made = Unpacker(tmp_path / "share", tmp_path / "files")
    return made, tmp_path / "share/unpack", tmp_path / "files/unpack"


def answers(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def test_a_request_is_answered_once(served: tuple[Unpacker, Path, Path]) -> None:
    unpacker, requests, place = served
    (requests / f"7-0-{len(DATA)}.xz").write_bytes(PACKED)
    unpacker.serve()
    assert answers(place) == {f"7-0-{len(DATA)}": DATA}
    assert not list(requests.iterdir())


@pytest.mark.parametrize(
    ("size", "content"),
    [
        (len(DATA) - 1, PACKED),
        (len(DATA) + 1, PACKED),
        (len(DATA), PACKED[:-9]),
        (len(DATA), b"no xz at all"),
        (unpack.MAX_OUTPUT + 1, PACKED),
    ],
)
def test_what_is_not_exactly_as_said_is_refused(
    served: tuple[Unpacker, Path, Path], size: int, content: bytes
) -> None:
    unpacker, requests, place = served
    (requests / f"7-0-{size}.xz").write_bytes(content)
    unpacker.serve()
    assert answers(place) == {f"7-0-{size}.refused": b""}


def test_a_bomb_ends_at_the_size_it_named(
    served: tuple[Unpacker, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacker, requests, place = served
    monkeypatch.setattr(unpack, "MAX_INPUT", 1 << 20)
    (requests / "7-0-4096.xz").write_bytes(lzma.compress(bytes(64 << 20)))
    unpacker.serve()
    (requests / "7-1-4096.xz").write_bytes(bytes((1 << 20) + 1))
    unpacker.serve()
    assert answers(place) == {"7-0-4096.refused": b"", "7-1-4096.refused": b""}


def test_only_files_with_names_of_requests_are_read(
    served: tuple[Unpacker, Path, Path], tmp_path: Path
) -> None:
    unpacker, requests, place = served
    secret = tmp_path / "secret"
    secret.write_bytes(PACKED)
    (requests / f"7-0-{len(DATA)}.xz").symlink_to(secret)
    (requests / "7-1-5.xz").mkdir()
    (requests / f"7-2-{len(DATA)}.part").write_bytes(PACKED)
    (requests / f"..-{len(DATA)}.xz").write_bytes(PACKED)
    unpacker.serve()
    assert not answers(place)
