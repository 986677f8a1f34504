"""A proof that is killed leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oracles import broken_guests
from oracles.builds import Build, Run
from oracles.proofs import machines

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]


@pytest.fixture
def own_cache(cache: Path, tmp_path: Path) -> Path:
    """The shared store under workspaces of this test's own, so that it sees its machines alone."""
    path = tmp_path / "cache"
    path.mkdir()
    (path / "store").symlink_to(cache / "store")
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killing_a_proof_leaves_no_machine_and_no_file(
    demo: Build, own_cache: Path, imagekit: Run, tmp_path: Path, number: signal.Signals
) -> None:
    environment = {**os.environ, "IMAGEKIT_CACHE": str(own_cache)}
    config = demo.one("domain-config", mode="pv")
    argv = [sys.executable, "-m", "imagekit", "prove", "--config", config, "-o", tmp_path]
    with subprocess.Popen(
        [str(a) for a in argv], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        deadline = time.monotonic() + 600
        while not machines(own_cache) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert machines(own_cache)
        time.sleep(3)
        child.send_signal(number)
        child.wait(60)
    deadline = time.monotonic() + 10
    while machines(own_cache) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert machines(own_cache) == []
    if number == signal.SIGKILL:  # nobody can clean up then; the next run does
        imagekit("prove", "--config", broken_guests.unreadable_grub(demo, tmp_path),
                 "-o", tmp_path, check=False, timeout=600, env=environment)  # fmt: skip
    assert [p for p in (own_cache / "work").iterdir() if p.suffix != ".lock"] == []
