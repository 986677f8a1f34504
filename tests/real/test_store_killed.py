"""A store that is killed, full or read-only gives a right result or none."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oracles.builds import ROOT

from imagekit.errors import HostError
from imagekit.pipeline.store import Store

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, who can mount"),
]
ROUNDS = 2 * int(os.environ.get("IMAGEKIT_KILL_ROUNDS", "10"))
KEYS = [hashlib.sha256(bytes([n])).hexdigest() for n in range(8)]
# Puts, gives out, prunes and sweeps for ever; what lies under a key follows from the key.
CHURN = """
import itertools, random, sys
from pathlib import Path
from imagekit.pipeline.store import Store
root, seed, *keys = sys.argv[1:]
chance = random.Random(int(seed))
print("ready", flush=True)
for _ in itertools.count():
    store = Store(Path(root))
    for key in chance.sample(keys, 4):
        output = store.new_output()
        (output / "big").write_bytes(key.encode() * 4000)
        (output / "small").write_bytes(key.encode())
        store.put(key, output, ["big", "small"], {})
        store.pool.keep((output.parent.parent / "objects" / key / "big").open("rb"), "0" * 64)
    store.settle()
    del store
    Store(Path(root)).prune(chance.randrange(1 << 20))
    Store(Path(root)).sweep()
"""


def require_right(root: Path) -> int:
    """Every result that the store at ``root`` gives out is that of its key; returns how many."""
    found = 0
    store = Store(root)
    for key in KEYS:
        entry = store.get(key, ["big", "small"])
        if entry is not None:
            found += 1
            assert entry.files["big"].read_bytes() == key.encode() * 4000
            assert entry.files["small"].read_bytes() == key.encode()
    return found


@pytest.mark.kills
def test_a_store_killed_at_any_moment_never_gives_a_wrong_result(tmp_path: Path) -> None:
    root, found = tmp_path / "store", 0
    for round_ in range(ROUNDS):
        argv = [sys.executable, "-c", CHURN, str(root), str(round_), *KEYS]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(random.Random(round_).random() * 0.1)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        found += require_right(root)
    assert found > ROUNDS // 2
    store = Store(root)
    store.sweep()
    assert list((root / "tmp").iterdir()) == []
    assert list((root / "files").iterdir()) == []
    del store
    assert Store(root).prune(0).left < 1 << 20
    assert list((root / "objects").iterdir()) == []


# As above, with results that are kept as differences from the first one.
CONDENSE = """
import itertools, random, sys
from pathlib import Path
from imagekit.pipeline import condense
from imagekit.pipeline.store import Made, Store
condense.LEAST = 4096
root, seed, *keys = sys.argv[1:]
chance = random.Random(int(seed))
common = random.Random(0).randbytes(1 << 20)
print("ready", flush=True)
for _ in itertools.count():
    store = Store(Path(root))
    for key in [keys[0], *chance.sample(keys[1:], 3)]:
        if store.get(key, ["big"]) is None:
            output = store.new_output()
            (output / "big").write_bytes(common[:99999] + key.encode() * 8 + common[99999:])
            inputs = (keys[0],) if key != keys[0] else ()
            store.put(key, output, ["big"], {}, Made("s", "g", inputs, interim=bool(inputs)))
    store.settle()
    store.condense()
    del store
    Store(Path(root)).prune(chance.randrange(3 << 20))
    Store(Path(root)).sweep()
"""


@pytest.mark.kills
def test_a_store_killed_while_it_condenses_never_gives_a_wrong_result(tmp_path: Path) -> None:
    root, found, parts = tmp_path / "store", 0, 0
    common = random.Random(0).randbytes(1 << 20)
    for round_ in range(ROUNDS):
        argv = [sys.executable, "-c", CONDENSE, str(root), str(round_), *KEYS]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(random.Random(round_).random() * 0.2)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        store = Store(root)
        parts += len(list(root.glob("objects/*/*.difference")))
        for key in KEYS:
            entry = store.get(key, ["big"])
            if entry is not None:
                found += 1
                expected = common[:99999] + key.encode() * 8 + common[99999:]
                assert entry.files["big"].read_bytes() == expected
        del store, entry
    assert found > ROUNDS // 2 and parts > 0
    Store(root).sweep()
    assert list((root / "tmp").iterdir()) == []
    Store(root).prune(0)
    assert list((root / "objects").iterdir()) == []


FILL = """
import errno, sys
from pathlib import Path
from imagekit.pipeline.store import Store
root, *keys = sys.argv[1:]
store = Store(Path(root))
for key in keys:
    output = store.new_output()
    try:
        (output / "big").write_bytes(key.encode() * 4000)
        (output / "small").write_bytes(key.encode())
        store.put(key, output, ["big", "small"], {})
        store.settle()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        print("full")
for key in keys:
    entry = store.get(key, ["big", "small"])
    assert entry is None or entry.files["big"].read_bytes() == key.encode() * 4000
    assert entry is None or entry.files["small"].read_bytes() == key.encode()
    print("there" if entry else "not there")
"""


def in_a_mount(options: str, script: str, place: Path, *args: str) -> str:
    """Run the Python ``script`` where a file system of its own is mounted at ``place``."""
    shell = f'mount -t tmpfs -o {options} none "$1" && shift && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-euc", shell, "sh", str(place)]
    argv += [sys.executable, "-c", script, *args]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kib", [300, 600, 1000])
def test_a_full_store_keeps_what_is_whole(tmp_path: Path, kib: int) -> None:
    said = in_a_mount(f"size={kib}k,mode=700", FILL, tmp_path, str(tmp_path / "store"), *KEYS)
    assert said.count("full") > 0 and said.count("not there") > 0
    assert said.count("\nthere") > 0 or kib == 300


READ_ONLY = """
import subprocess, sys
from pathlib import Path
from imagekit.errors import HostError
from imagekit.pipeline.store import Store
root = Path(sys.argv[1]) / "store"
Store(root)
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
try:
    Store(root)
except HostError as error:
    print(error)
"""


def test_a_read_only_store_is_refused_with_words(tmp_path: Path) -> None:
    said = in_a_mount("mode=700", READ_ONLY, tmp_path, str(tmp_path))
    assert "read-only" in said and "IMAGEKIT_CACHE" in said


def test_what_looks_like_a_result_and_is_none_is_no_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shutil.copytree(ROOT / "docs", store.root / "objects" / KEYS[0])
    (store.root / "objects" / KEYS[1]).write_text("a file")
    assert [store.get(key, []) for key in KEYS] == [None] * len(KEYS)
    with pytest.raises(HostError):
        Store(tmp_path / "store/objects" / KEYS[1])
