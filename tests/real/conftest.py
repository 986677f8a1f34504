"""What the real tests share: one store, and the demo image, built once for all workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles import tiny_installer
from oracles.builds import CACHE_NAME, ROOT, Build, Run


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


@pytest.fixture(scope="session")
def build(
    imagekit: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Build]]:
    """Builds a spec into a directory of its own; equal stages come from the shared store."""
    made: list[Path] = []

    def run(spec: Path, *args: str) -> Build:
        out = tmp_path_factory.mktemp("build") / "out"
        made.append(out)
        imagekit("build", spec, "-o", out, *args)
        return Build(out, json.loads((out / "manifest.json").read_text()))

    yield run
    for out in made:
        shutil.rmtree(out, ignore_errors=True)


@pytest.fixture(scope="session")
def demo(build: Callable[..., Build]) -> Build:
    """The image that ``make demo`` builds: raw, qcow2 and VHD of a Debian 12 guest."""
    return build(ROOT / "examples/web01.yaml")


@pytest.fixture(scope="session")
def tiny_parts(demo: Build, cache: Path, shared: Path) -> tiny_installer.Parts:
    """Kernel, initrd and root of a small real installer, made of the demo's own tree."""
    return tiny_installer.parts(shared, tiny_installer.debian_tree_of(demo, cache))


@pytest.fixture(scope="session")
def tiny(tiny_parts: tiny_installer.Parts, shared: Path, build: Callable[..., Build]) -> Build:
    """The guest tiny01 that the small installer made from its ISO; raw, qcow2 and VHD."""
    return build(tiny_installer.guest_spec(shared, tiny_parts))
