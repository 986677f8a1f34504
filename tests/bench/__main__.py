"""``make bench``: build times beside other builders, with the same packages, in one run.

Numbers of different machines or hours do not compare; the ratios of one run do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from imagekit.host.sandbox.box import SUDO  # noqa: E402
from imagekit.installs.mirrors import mirrors_for  # noqa: E402
from imagekit.installs.tree_packages import wanted_packages  # noqa: E402
from imagekit.spec.load import load_spec  # noqa: E402

from .guests import Guests  # noqa: E402

SPEC = ROOT / "examples/web01.yaml"
ELEMENTS = ("xen-guest", "xen-pv-kernel", "growroot", "serial-console")


@dataclass(frozen=True)
class Row:
    """A line of the table: who, how long in seconds, and what came out."""

    name: str
    seconds: float | None
    result: str


def timed(run: Callable[[], str]) -> tuple[float | None, str]:
    """Seconds of ``run`` and what it says; None when it failed."""
    started = time.monotonic()
    try:
        result = run()
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        return None, f"failed: {' '.join(last)[:60]}"
    except FileNotFoundError as error:
        return None, f"not installed: {error.filename}"
    return time.monotonic() - started, result


def sh(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [*map(str, argv)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(env or {})},
    )
    return done.stdout


class Bench:
    """The candidates, all building the package set of the demo image below one directory."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.cache = work / "cache"
        self.file = load_spec(SPEC)
        self.packages = wanted_packages(self.file.spec)
        mirrors = mirrors_for(self.file)
        self.sources = work / "sources.list"
        self.sources.write_text("\n".join(mirrors.lines()) + "\n")
        self.mirror = [url for url, _suite in mirrors.sources[:1]]
        self.dib_mirrors = {
            name: url
            for name, (url, _suite) in zip(
                ("DIB_DISTRIBUTION_MIRROR", "DIB_DEBIAN_SECURITY_MIRROR"),
                (*mirrors.sources[:1], *mirrors.sources[-1:]),
                strict=False,
            )
        }
        self.suite = self.file.spec.os.suite

    def imagekit(self, *args: str) -> str:
        sh(
            sys.executable,
            "-m",
            "imagekit",
            "build",
            SPEC,
            "-o",
            self.work / "out",
            *args,
            env={"IMAGEKIT_CACHE": str(self.cache)},
        )
        return "raw + qcow2 + VHD, bootable"

    def changed(self) -> str:
        return self.imagekit("--set", "files=[{target: /etc/motd, content: changed}]", "--force")

    def mmdebstrap(self) -> str:
        target = self.work / "mmdebstrap.tar"
        sh(
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(self.packages)}",
            self.suite,
            target,
            self.sources,
        )
        target.unlink()
        return "tar, not bootable"

    def debootstrap(self) -> str:
        target = self.work / "debootstrap"
        sh(
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(self.packages)}",
            self.suite,
            target,
            *self.mirror,
        )
        shutil.rmtree(target)
        return "directory, not bootable"

    def with_elements(self) -> str:
        """The demo image with elements, by imagekit's own stages."""
        sh(
            *(sys.executable, "-m", "imagekit", "build", SPEC, "-o", self.work / "elements"),
            *("--set", f"install.elements=[{', '.join(ELEMENTS)}]"),
            env={"IMAGEKIT_CACHE": str(self.work / "elements-cache")},
        )
        return "raw + qcow2 + VHD, bootable"

    def diskimage_builder(self) -> str:
        return self._disk_image_create()

    def diskimage_builder_with_elements(self) -> str:
        return self._disk_image_create(*ELEMENTS)

    def _sudo(self) -> Path:
        """A directory with a sudo for root, found where the host has none."""
        directory = self.work / "bin"
        directory.mkdir(exist_ok=True)
        shutil.copyfile(SUDO, directory / "sudo")
        (directory / "sudo").chmod(0o755)
        return directory

    def _disk_image_create(self, *elements: str) -> str:
        """disk-image-create as it is, with a cache of its own that later runs find again."""
        target = self.work / "dib"
        bin_ = Path(sys.executable).parent
        env = {
            "PATH": f"{bin_}:{os.environ['PATH']}:/usr/sbin:/sbin:{self._sudo()}",
            "DIB_RELEASE": self.suite,
            "DIB_PYTHON_VERSION": "3",
            "DIB_INITRD_LATER": "0",
            "DIB_IMAGE_CACHE": str(self.work / "image-cache"),
            "ELEMENTS_PATH": str(ROOT / "elements"),
            "TMP_DIR": str(self.work),  # a TMPDIR would be looked for in the tree too
            "DIB_DEBIAN_COMPONENTS": "main",
            **self.dib_mirrors,
        }
        packages = ",".join(self.packages)
        options = ["-t", "tar", "-o", str(target), "-p", packages]
        sh(bin_ / "disk-image-create", *options, "debian-minimal", *elements, env=env)
        for path in self.work.glob("dib*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return "tar, not bootable"

    def xva(self) -> str:
        target = self.work / "xva"
        sh(
            *(sys.executable, "-m", "imagekit", "config", self.work / "out"),
            *("--toolstack", "xva", "--mode", "pv", "--boot", "pygrub", "-o", target),
        )
        size = sum(f.stat().st_size for f in target.iterdir())
        shutil.rmtree(target)
        return f"{size / 1e6:.0f} MB written"

    def prove(self, *args: str) -> str:
        argv = [sys.executable, "-m", "imagekit", "prove", str(self.work / "out"), *args]
        sh(*argv, env={"IMAGEKIT_CACHE": str(self.cache)})
        report = json.loads((self.work / "out/proof.json").read_text())
        parts = ", ".join(f"{name} {seconds} s" for name, seconds in report["seconds"].items())
        return parts

    def prove_first(self) -> str:
        return self.prove("--mode", "pv", "--boot", "pygrub")

    def prove_more(self) -> str:
        return self.prove("--mode", "pv", "--mode", "pvh")


def stages(out: Path) -> list[Row]:
    """The stage table of the build in ``out``."""
    manifest = json.loads((out / "manifest.json").read_text())
    return [Row(s["name"], s["seconds"], "") for s in manifest["stages"]]


def table(title: str, rows: list[Row], base: float | None) -> str:
    lines = [title]
    for row in rows:
        seconds = f"{row.seconds:8.2f} s" if row.seconds is not None else "         -"
        ratio = f"{row.seconds / base:6.2f}" if row.seconds is not None and base else "     -"
        lines.append(f"  {row.name:<32} {seconds} {ratio}  {row.result}")
    return "\n".join(lines)


def guest_rows(golden: Path, work: Path, wanted: Callable[[str], bool]) -> list[Row]:
    """What a guest of the build in ``golden`` costs, in several ways; seconds are for each."""
    guests = Guests(golden, work)
    ways: list[tuple[str, Callable[[], tuple[float, str]]]] = [
        ("guests: overlays", guests.overlays),
        ("guests: overlays of 10 GiB", guests.grown),
        ("guests: overlays, seed disks", guests.seeds),
        ("guests: one alone", guests.single),
        ("guests: full copies", guests.copies),
        ("guests: xen-create-image", guests.xen_tools),
    ]
    rows = []
    for name, way in ways:
        if not wanted(name):
            continue
        each: list[float] = []

        def run(way: Callable[[], tuple[float, str]] = way, each: list[float] = each) -> str:
            seconds, text = way()
            each.append(seconds)
            return text

        _, result = timed(run)
        rows.append(Row(name, each[0] if each else None, result))
        print(f"{name}: {round(each[0], 2) if each else result}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="run only candidates whose name has this")
    parser.add_argument("--golden", type=Path, help="make the guests of this build")
    options = parser.parse_args()

    def wanted(name: str) -> bool:
        return not options.only or any(word in name for word in options.only)

    work = Path(tempfile.mkdtemp(prefix="imagekit-bench-"))
    try:
        bench = Bench(work)
        candidates: list[tuple[str, Callable[[], str]]] = [
            ("mmdebstrap to tar", bench.mmdebstrap),
            ("imagekit, cold", bench.imagekit),
            ("imagekit, unchanged", bench.imagekit),
            ("imagekit, one file changed", bench.changed),
            ("XVA of the image", bench.xva),
            ("proof: lab and first PV guest", bench.prove_first),
            ("proof: PV and PVH, lab stored", bench.prove_more),
            ("debootstrap", bench.debootstrap),
            ("diskimage-builder", bench.diskimage_builder),
            ("imagekit + elements, cold", bench.with_elements),
            ("imagekit + elements, unchanged", bench.with_elements),
            ("disk-image-create + same, cold", bench.diskimage_builder_with_elements),
            ("disk-image-create + same, again", bench.diskimage_builder_with_elements),
        ]
        rows: list[Row] = []
        own: list[Row] = []
        for name, run in candidates:
            if not wanted(name):
                continue
            seconds, result = timed(run)
            rows.append(Row(name, seconds, result))
            print(f"{name}: {seconds if seconds is None else round(seconds, 2)}", flush=True)
            if name == "imagekit, cold" and seconds is not None:
                own = stages(work / "out")
        golden = options.golden or work / "out"
        guests = guest_rows(golden, work, wanted) if golden.is_dir() else []
        base = next((r.seconds for r in rows if r.name == "mmdebstrap to tar"), None)
        print(f"\n{len(bench.packages)} packages named, {bench.suite}; ratio to mmdebstrap")
        print(table("builders", rows, base))
        if guests:
            copy = next((r.seconds for r in guests if r.name == "guests: full copies"), None)
            print(table("seconds for one guest; ratio to a full copy", guests, copy))
        if own:
            print(table("stages of imagekit, cold", own, sum(r.seconds or 0 for r in own)))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
