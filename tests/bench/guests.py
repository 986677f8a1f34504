"""Guests of one golden image: seconds and bytes for each, beside full copies and xen-tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COUNT = 20
COPIES = 3
"""Full copies made, as twenty of them fill a small disk; what counts is each."""


class Guests:
    """Makes guests of the build in ``golden`` below ``work``; every method says what one costs."""

    def __init__(self, golden: Path, work: Path) -> None:
        self.golden = golden
        self.work = work / "guests"
        self.work.mkdir()
        (self.disk,) = golden.glob("*.raw")

    def overlays(self) -> tuple[float, str]:
        """A batch of overlays of the golden disk's own size."""
        return self._provision("same", COUNT)

    def grown(self) -> tuple[float, str]:
        """A batch whose partition and file system grow to 10 GiB."""
        return self._provision("grown", COUNT, size="10GiB")

    def single(self) -> tuple[float, str]:
        """One guest alone, which pays for the appliance itself."""
        return self._provision("single", 1)

    def seeds(self) -> tuple[float, str]:
        """A batch with seed disks, without an appliance."""
        return self._provision("seeds", COUNT, "--seed")

    def copies(self) -> tuple[float, str]:
        """What virt-clone does: the whole disk once more, without an identity."""

        def make(place: Path) -> None:
            for number in range(COPIES):
                target = place / f"copy{number}.raw"
                _run("cp", "--sparse=auto", "--reflink=never", self.disk, target)

        return self._measured("copies", COPIES, make)

    def xen_tools(self) -> tuple[float, str]:
        """xen-create-image, which installs every guest anew."""

        def make(place: Path) -> None:
            name = "bench.example.net"
            argv = ["xen-create-image", f"--hostname={name}", f"--dir={place}", "--dhcp"]
            _run(*argv, "--size=2Gb", "--noswap", "--dist=bookworm", "--password=x")

        return self._measured("xen-tools", 1, make)

    def _provision(self, name: str, count: int, *extra: str, size: str = "") -> tuple[float, str]:
        guests = self.work / f"{name}.yaml"
        grow = f", size: {size}" if size else ""
        guests.write_text(
            f"defaults: {{gateway: 192.0.2.254{grow}}}\nguests:\n"
            + "".join(f"- {{name: {name}{i}, ip: 192.0.2.{i + 1}/24}}\n" for i in range(count))
        )

        def make(place: Path) -> None:
            argv: list[str | Path] = [sys.executable, "-m", "imagekit", "provision"]
            argv += ["--from", self.golden, "--guests", guests, "--dir", place, *extra]
            _run(*argv, state=self.work / "state")

        return self._measured(name, count, make)

    def _measured(self, name: str, count: int, make: Callable[[Path], None]) -> tuple[float, str]:
        place = self.work / name
        place.mkdir()
        try:
            started = time.monotonic()
            make(place)
            seconds = (time.monotonic() - started) / count
            own = [p for p in place.rglob("*") if ".golden" not in p.parts]
            used = sum(p.stat().st_blocks for p in own) * 512 / count
            share = used / (self.disk.stat().st_blocks * 512)
            load = os.getloadavg()[0]
            text = f"{used / 1e6:.2f} MB each, {share:.2%} of golden; {count} made, load {load:.1f}"
            return seconds, text
        finally:
            shutil.rmtree(place)
            shutil.rmtree(self.work / "state", ignore_errors=True)


def _run(*argv: str | Path, state: Path | None = None) -> None:
    env = {**os.environ, **({"IMAGEKIT_STATE": str(state)} if state else {})}
    subprocess.run([*map(str, argv)], capture_output=True, text=True, check=True, env=env)
