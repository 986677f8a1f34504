"""apt is offered what the pool has by the digest that was asked for, once, and nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.installs.stages.offering import ANSWER, Offer
from imagekit.pipeline.pool import FilePool

DATA = b"a package" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    (tmp_path / "files").mkdir()
    (tmp_path / "offered").mkdir()
    pool = FilePool(tmp_path / "files")
    assert pool.keep(io.BytesIO(DATA), SHA256)
    return Offer(tmp_path / "offered", pool)


def given_out(offer: Offer) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in offer.directory.glob("*.deb")}


def test_what_is_asked_for_is_given_and_the_hook_is_told(offer: Offer) -> None:
    answers: list[bytes] = []

    def hook() -> None:
        with (offer.directory / ANSWER).open("rb", buffering=0) as fifo:
            answers.append(fifo.readline())

    with offer.answering():
        waiting = threading.Thread(target=hook)
        waiting.start()
        assert offer.line(f"imagekit wants {SHA256} a_1%3a2+b~c-1_all.deb")
        assert offer.line(f"imagekit wants {'0' * 64} b_1_all.deb")
        assert not offer.line("Get:1 http://mirror a_1_all.deb")
        assert offer.line("imagekit wants no more")
        waiting.join(10)
    assert answers == [b"\n"]
    assert given_out(offer) == {"a_1%3a2+b~c-1_all.deb": DATA}
    assert (offer.directory / "a_1%3a2+b~c-1_all.deb").stat().st_mode & 0o777 == 0o644


def test_a_forged_package_is_not_given(offer: Offer, tmp_path: Path) -> None:
    forged = b"A" + DATA[1:]
    (tmp_path / "files" / SHA256).write_bytes(forged)
    with offer.answering():
        offer.line(f"imagekit wants {SHA256} a_1_all.deb")
        offer.line("imagekit wants no more")
    assert given_out(offer) == {}


def test_programs_of_packages_that_ask_later_get_nothing(offer: Offer) -> None:
    with offer.answering():
        offer.line("imagekit wants no more")
        assert offer.line(f"imagekit wants {SHA256} a_1_all.deb")
        offer.line("imagekit wants no more")
        fifo = os.open(offer.directory / ANSWER, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert os.read(fifo, 100) == b"\n"
        finally:
            os.close(fifo)
    assert given_out(offer) == {}


@given(st.text(min_size=1, max_size=40).map(lambda name: f"{name}.deb"))
def test_no_name_leads_out_of_the_directory(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    base = tmp_path_factory.mktemp("offer")
    (base / "files").mkdir()
    (base / "offered").mkdir()
    pool = FilePool(base / "files")
    pool.keep(io.BytesIO(DATA), SHA256)
    offer = Offer(base / "offered", pool)
    before = {p for p in base.rglob("*") if p.parent != offer.directory}
    offer.line(f"imagekit wants {SHA256} {name}")
    offer.line(f"imagekit wants {SHA256} ../{name}")
    assert {p for p in base.rglob("*") if p.parent != offer.directory} == before
