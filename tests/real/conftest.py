"""What the real tests share: one store, and the demo image, built once for all workers."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from oracles import tiny_installer
from oracles.builds import CACHE_NAME, ROOT, Build, Run
from oracles.ordinary_user import AsUser, as_ordinary_user

from imagekit.pipeline.store import Store

KEPT_IN_STORE = "8GiB"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def cache(shared: Path) -> Iterator[Path]:
    """The store of the session, in place of the user's own."""
    path = shared / CACHE_NAME
    before = os.environ.get("IMAGEKIT_CACHE")
    os.environ["IMAGEKIT_CACHE"] = str(path)
    yield path
    if before is None:
        del os.environ["IMAGEKIT_CACHE"]
    else:
        os.environ["IMAGEKIT_CACHE"] = before


@pytest.fixture(scope="session")
def imagekit(cache: Path) -> Run:
    """Runs the program as a user does."""

    def run(
        *args: str | Path,
        check: bool = True,
        env: dict[str, str] | None = None,
        timeout: float = 900,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "imagekit", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@dataclass
class Builds:
    """Builds a spec into a directory of its own; equal stages come from the shared store."""

    imagekit: Run
    factory: pytest.TempPathFactory
    made: list[Path] = field(default_factory=list)
    lasting: list[Path] = field(default_factory=list)

    def __call__(self, spec: Path, *args: str) -> Build:
        return self._make(self.made, spec, *args)

    def kept(self, spec: Path, *args: str) -> Build:
        """The same, for a build that stays as long as the session."""
        return self._make(self.lasting, spec, *args)

    def _make(self, where: list[Path], spec: Path, *args: str) -> Build:
        out = self.factory.mktemp("build") / "out"
        where.append(out)
        self.imagekit("build", spec, "-o", out, *args)
        return Build(out, json.loads((out / "manifest.json").read_text()))

    def clear(self) -> None:
        """Remove the builds that need not stay."""
        while self.made:
            shutil.rmtree(self.made.pop(), ignore_errors=True)


@pytest.fixture(scope="session")
def build(imagekit: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    """Makes builds for the tests of a file."""
    builds = Builds(imagekit, tmp_path_factory)
    yield builds
    builds.clear()
    for out in builds.lasting:
        shutil.rmtree(out, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def little_disk(cache: Path, build: Builds) -> Iterator[None]:
    """After each file remove its builds, and what the store has used longest ago.

    The demo's own results stay: the small installer is made of its tree.
    """
    yield
    build.clear()
    objects = cache / "store/objects"
    for key in demo_keys(cache).read_text().split() if demo_keys(cache).exists() else []:
        with contextlib.suppress(OSError):
            os.utime(objects / key / "object.json")
    build.imagekit("cache", "prune", "--keep", KEPT_IN_STORE)


def demo_keys(cache: Path) -> Path:
    """The file in which the keys of the demo's results are written down."""
    return cache / "demo-keys"


@pytest.fixture(scope="session")
def demo(build: Builds, cache: Path) -> Iterator[Build]:
    """The image that ``make demo`` builds: raw, qcow2 and VHD of a Debian 12 guest."""
    made = build.kept(ROOT / "examples/web01.yaml")
    keys = [stage["key"] for stage in made.manifest["stages"]]
    demo_keys(cache).write_text("\n".join(keys))
    # Whatever else runs meanwhile, its results are not pruned as long as somebody holds them.
    store = Store(cache / "store")
    for key in keys:
        store.get(key, [])
    yield made
    del store


@pytest.fixture(scope="session")
def tiny_parts(demo: Build, cache: Path, shared: Path) -> tiny_installer.Parts:
    """Kernel, initrd and root of a small real installer, made of the demo's own tree."""
    return tiny_installer.parts(shared, tiny_installer.debian_tree_of(demo, cache))


@pytest.fixture(scope="session")
def tiny(tiny_parts: tiny_installer.Parts, shared: Path, build: Builds) -> Build:
    """The guest tiny01 that the small installer made from its ISO; raw, qcow2 and VHD."""
    return build.kept(tiny_installer.guest_spec(shared, tiny_parts))


@pytest.fixture(scope="module")
def mirror(
    tiny_parts: tiny_installer.Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """What the small installer takes for its archive: the port of a server on loopback."""
    base = tmp_path_factory.mktemp("mirror")
    (base / "mirror").mkdir()
    (base / "mirror/rootfs.tar").hardlink_to(tiny_parts.rootfs)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(base))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@pytest.fixture
def as_builder(tmp_path: Path) -> AsUser:
    """Runs a command as a user with subordinate ids and a home that others cannot read."""
    return as_ordinary_user(tmp_path)
