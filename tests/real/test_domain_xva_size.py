"""What an XVA of a big disk costs: memory, file size, time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles import xva_reader

pytestmark = pytest.mark.real

MIB = 1 << 20
PROGRAM = """
import json, re, sys, time
from pathlib import Path
from imagekit.domain import model
from imagekit.domain.facts import BuildFacts, PygrubView, Verdict
from imagekit.toolstacks.xapi.xva import write_xva

yes = Verdict(True, ("test",))
domain = model.Domain("big", "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11", "pv", 512, 1,
                      model.Pygrub(), (model.Disk(sys.argv[1]),))
facts = BuildFacts("big", domain.uuid, 512, 1, (), yes, yes, yes, PygrubView(True, "test"))
started = time.monotonic()
with Path(sys.argv[2]).open("wb") as stream:
    write_xva(domain, facts, stream)
seconds = time.monotonic() - started
# VmHWM is our own peak; ru_maxrss outlives exec and so tells of pytest, getrusage(2)
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"seconds": seconds, "peak_kib": peak_kib}))
"""


@pytest.fixture
def space() -> Iterator[Path]:
    """A directory that is gone after the test, whereas pytest keeps its own for a while."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_a_ten_gibibyte_disk_with_one_of_data_takes_little_memory_and_its_data_s_size(
    space: Path,
) -> None:
    disk, xva = space / "big.raw", space / "big.xva"
    with disk.open("wb") as file:
        file.truncate(10 << 30)
        for number in range(128):
            file.seek(number * 80 * MIB)
            file.write(os.urandom(8 * MIB))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, disk, xva], capture_output=True, text=True, check=True
    )
    cost = json.loads(done.stdout)
    size = xva.stat().st_size
    print(f"\n{size / 1e6 / cost['seconds']:.0f} MB/s, {cost['peak_kib'] // 1024} MiB of memory")
    assert cost["peak_kib"] < 200 * 1024
    assert size < 1.01 * (1 << 30)
    with xva.open("rb") as stream:
        virtual, pieces, _ = xva_reader.read(stream, content=False).disks["Ref:1000"]
    assert virtual == 10 << 30
    assert len(pieces) == 1025
