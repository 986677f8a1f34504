"""The confined part of pypxeboot cannot always read where imagekit lies: all is loaded before."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

KERNEL = bytes(0x202) + b"HdrS" + bytes(100)
PROGRAM = """
import sys
from importlib.abc import MetaPathFinder
from imagekit.pypxeboot import confine, program

class Refuse(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("imagekit"):
            raise PermissionError(13, "Permission denied", name)

def run(job, limits):
    sys.meta_path.insert(0, Refuse())
    try:
        return dict(job())
    finally:
        sys.meta_path.pop(0)

confine.run = run
sys.exit(program.main(sys.argv[1:]))
"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "served"
    (root / "pxelinux.cfg").mkdir(parents=True)
    (root / "pxelinux.cfg/default").write_text("default a\nlabel a\n kernel k\n initrd i\n")
    (root / "k").write_bytes(KERNEL)
    (root / "i").write_bytes(b"initrd")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_nothing_of_imagekit_is_loaded_by_the_confined_part(url: str, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    words = [
        "--dhcp=none",
        "--mac=00:16:3e:00:00:01",
        f"--http={url}",
        f"--output-directory={place}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, str(tmp_path / "disk")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {path.read_bytes() for path in place.iterdir()} == {KERNEL, b"initrd"}
