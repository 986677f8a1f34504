"""TFTP transfers of more than 65535 blocks in lock step: seconds each, so not in the unit run."""

from __future__ import annotations

import random

import pytest
from oracles.tftp_server import TftpServer

from imagekit.pypxeboot import tftp
from imagekit.pypxeboot.transfer import Deadline, Receiver

pytestmark = pytest.mark.real
DATA = random.Random(5).randbytes(33_600_000)


@pytest.mark.parametrize("roll_to", [0, 1])
def test_more_than_32_mib_in_blocks_of_512_bytes(roll_to: int) -> None:
    deadline = Deadline(100)
    receiver = Receiver("f", 1 << 26, deadline)
    with TftpServer({"f": DATA}, options=(), roll_to=roll_to) as server:
        tftp.fetch(server.address, "f", receiver, deadline, port=server.port)
    assert receiver.content() == DATA


def test_block_numbers_wrap_inside_a_window() -> None:
    deadline = Deadline(100)
    receiver = Receiver("f", 1 << 26, deadline)
    wanted = tftp.Wanted(blksize=8, windowsize=64)
    with TftpServer({"f": DATA[:530_000]}) as server:
        tftp.fetch(server.address, "f", receiver, deadline, port=server.port, wanted=wanted)
    assert receiver.content() == DATA[:530_000]
