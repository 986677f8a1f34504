"""Known secrets go into a build; their bytes must be nowhere but where they belong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from oracles.proxy import proxy

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROOT_HASH = "$y$j9T$Kq3mZ1sUxWb7Lr0c$8Vd2hN4tY6pQ1wE3rT5yU7iO9aS0dF2gH4jK6lZ8xCv"
KEY_BODY = "b3BlbnNzaC1rZXktdjEAAAAAimagekitsecretkeymaterial0123456789"
PRIVATE_KEY = (
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{KEY_BODY}\n-----END OPENSSH PRIVATE KEY-----\n"
)
PROXY_PASSWORD = "pr0xy-Passw0rd-9f3a"
SECRETS = [ROOT_HASH, KEY_BODY, PROXY_PASSWORD]


class Watcher(threading.Thread):
    """Looks at the arguments of every process, as often as it can."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found: set[str] = set()
        self.seen: set[bytes] = set()
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    argv = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                self.seen.add(argv.split(b"\0")[0])
                for secret in SECRETS:
                    if secret.encode() in argv:
                        self.found.add(f"{secret}: {argv!r}")
            time.sleep(0.01)


def holding(root: Path, secret: str) -> list[str]:
    """Files below ``root`` that hold the bytes of ``secret``."""
    done = subprocess.run(
        ["grep", "-rlFa", "--", secret, str(root)], capture_output=True, text=True, timeout=300
    )
    return sorted(str(Path(p).relative_to(root)) for p in done.stdout.splitlines())


def test_secrets_are_found_only_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "hash").write_text(ROOT_HASH + "\n")
    (tmp_path / "hash").chmod(0o600)
    (tmp_path / "key").write_text(PRIVATE_KEY)
    cache = tmp_path / "cache"
    out = tmp_path / "out"
    watcher = Watcher()
    with proxy("builder", PROXY_PASSWORD) as (port, fetched):
        spec = tmp_path / "guest.yaml"
        spec.write_text(
            "name: secret01\n"
            "os:\n"
            "  suite: bookworm\n"
            f"  proxy: http://builder:{PROXY_PASSWORD}@127.0.0.1:{port}\n"
            "install: {method: debootstrap}\n"
            "disk: {size: 1GiB, formats: [raw]}\n"
            "identity: {root_password: {file: hash}}\n"
            "files:\n"
            "  - {target: /root/.ssh/id_ed25519, source: key, mode: '0600'}\n"
        )
        watcher.start()
        done = subprocess.run(
            [sys.executable, "-m", "imagekit", "build", str(spec), "-o", str(out), "--json"],
            capture_output=True,
            text=True,
            env={**os.environ, "IMAGEKIT_CACHE": str(cache)},
            timeout=900,
        )
        watcher.stop.set()
        watcher.join()
    assert done.returncode == 0, done.stderr
    assert any("linux-image" in url for url in fetched)
    assert any(b"mmdebstrap" in argv or b"perl" in argv for argv in watcher.seen)
    assert watcher.found == set()
    for secret in SECRETS:
        assert secret not in done.stdout
        assert secret not in done.stderr
        assert secret not in json.dumps(json.loads((out / "manifest.json").read_text()))
    assert holding(out, ROOT_HASH) == ["secret01.raw"]
    assert holding(out, KEY_BODY) == ["secret01.raw"]
    assert holding(out, PROXY_PASSWORD) == []
    assert [p for p in holding(cache, ROOT_HASH) if not p.endswith("/disk.raw")] == []
    assert [p for p in holding(cache, KEY_BODY) if not p.endswith("/disk.raw")] == []
    assert holding(cache, PROXY_PASSWORD) == []
    image = (out / "secret01.raw").read_bytes()
    assert image.count(ROOT_HASH.encode()) == 1
    assert image.count(KEY_BODY.encode()) == 1
    assert (out / "secret01.raw").stat().st_mode & 0o077 == 0
