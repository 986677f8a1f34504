"""``make bench``: what people wait for, beside other builders with the same packages, in one run.

Numbers of different machines or hours do not compare; the ratios of one run do. With ``--work``
what was built and measured stays in that directory, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from . import aims
from .aims import Measured, aims_table, table, with_needed
from .builders import Bench, used
from .guests import Guests

RESULTS = "bench.jsonl"


@dataclass(frozen=True)
class Row:
    """What can be measured: seconds of ``run``, the median of ``times``; or the bytes that ``size``
    tells after it. ``needs`` are rows whose builds it stands on; ``before`` is not measured."""

    name: str
    run: Callable[[], str]
    needs: Sequence[str] = ()
    before: Callable[[], object] | None = None
    times: int = 1
    size: Callable[[], int] | None = None


def rows_of(bench: Bench) -> list[Row]:
    """All rows, in an order in which each finds what it needs."""
    store = bench.cache / "store"

    def bytes_of_store() -> int:
        return used(store)

    def ten() -> str:
        bench.store_of_ten()
        return "ten builds, each with another package"

    cold = (aims.COLD,)
    return [
        Row(aims.PEER, bench.mmdebstrap),
        Row(aims.COLD, bench.cold),
        Row(aims.STORE_ONE, lambda: "the cold build's", cold, size=bytes_of_store),
        Row(aims.UNCHANGED, bench.build, cold, times=3),
        Row("XVA of the image", bench.xva, cold),
        Row(aims.INJECT, bench.inject, cold, bench.injected, 3),
        Row("virt-copy-in of one file", bench.virt_copy_in, cold, bench.injected, 3),
        Row(aims.INSPECT, bench.inspect, cold, times=3),
        # Before any other spec has put something into the store.
        Row(aims.STORE_TEN, ten, (aims.STORE_ONE,), size=bytes_of_store),
        Row(aims.FILE, bench.changed, cold),
        Row(aims.PACKAGE, bench.package_added, cold),
        Row(aims.SECOND, bench.second_spec, cold),
        Row(aims.LVM_COLD, bench.lvm_cold),
        Row(aims.LVM_FILE, bench.lvm_changed, (aims.LVM_COLD,)),
        Row(aims.LVM_INSPECT, bench.lvm_inspect, (aims.LVM_COLD,), times=3),
        Row("proof: lab and first PV guest", bench.prove_first, cold),
        Row("proof: PV and PVH, lab stored", bench.prove_more, cold),
        Row("debootstrap", bench.debootstrap),
        Row("diskimage-builder", bench.diskimage_builder),
        Row("imagekit + elements, cold", bench.with_elements),
        Row("imagekit + elements, unchanged", bench.with_elements, ["imagekit + elements, cold"]),
        Row("disk-image-create + same, cold", bench.diskimage_builder_with_elements),
        Row("disk-image-create + same, again", bench.diskimage_builder_with_elements),
    ]


def measure(row: Row) -> Measured:
    """Run ``row``; without a value when it failed."""
    seconds: list[float] = []
    result = ""
    try:
        if row.before is not None:
            row.before()
        for _ in range(row.times):
            started = time.monotonic()
            result = row.run()
            seconds.append(time.monotonic() - started)
        if row.size is not None:
            return Measured(row.name, row.size(), result, "B")
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        return Measured(row.name, None, f"failed: {' '.join(last)[:60]}")
    except FileNotFoundError as error:
        return Measured(row.name, None, f"not installed: {error.filename}")
    load = f"load {os.getloadavg()[0]:.1f}"
    return Measured(row.name, statistics.median(seconds), f"{result}, {load}")


def stages(out: Path) -> list[Measured]:
    """The stage table of the build in ``out``."""
    manifest = json.loads((out / "manifest.json").read_text())
    return [Measured(s["name"], s["seconds"], "") for s in manifest["stages"]]


def guest_rows(golden: Path, work: Path, wanted: Callable[[str], bool]) -> list[Measured]:
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

        said = measure(Row(name, run))
        rows.append(Measured(name, each[0] if each else None, said.result))
        print(f"{name}: {rows[-1].shown}", flush=True)
    return rows


def earlier(path: Path) -> dict[str, Measured]:
    """What a run that was stopped has measured, by row; not what failed."""
    if not path.is_file():
        return {}
    found = [Measured(**json.loads(line)) for line in path.read_text().splitlines() if line]
    return {row.name: row for row in found if row.value is not None}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", help="run only rows whose name has this, and what they need"
    )
    parser.add_argument("--aims", action="store_true", help="run only the rows of the aims")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--golden", type=Path, help="make the guests of this build")
    parser.add_argument("--work", type=Path, help="keep builds and results here, and go on there")
    return parser.parse_args()


def run_rows(bench: Bench, names: Sequence[str], results: Path) -> dict[str, Measured]:
    """Measure the rows ``names`` that ``results`` has not yet, and add them to it."""
    measured = earlier(results)
    for row in rows_of(bench):
        if row.name not in names or row.name in measured:
            continue
        found = measure(row)
        measured[row.name] = found
        with results.open("a") as stream:
            stream.write(f"{json.dumps(asdict(found))}\n")
        print(f"{row.name}: {found.shown} ({found.result})", flush=True)
    return measured


def main() -> None:
    """Measure, and print the tables."""
    options = arguments()
    with ExitStack() as stack:
        work = options.work
        if work is None:
            work = Path(tempfile.mkdtemp(prefix="imagekit-bench-"))
            stack.callback(shutil.rmtree, work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(work)
        needs = {row.name: row.needs for row in rows_of(bench)}
        if options.list:
            print("\n".join(needs))
            return
        only = {name for aim in aims.AIMS for name in (aim.row, aim.against)}

        def wanted(name: str) -> bool:
            if options.aims:
                return name in only
            return not options.only or any(word in name for word in options.only)

        names = with_needed([name for name in needs if wanted(name)], needs)
        measured = run_rows(bench, names, work / RESULTS)
        golden = options.golden or bench.out
        guests = guest_rows(golden, work, wanted) if golden.is_dir() else []
        rows = [row for row in measured.values() if row.unit == "s"]
        base = measured.get(aims.PEER)
        print(f"\n{len(bench.packages)} packages named, {bench.suite}; ratio to mmdebstrap")
        print(table("builders", rows, base.value if base else None))
        if guests:
            copy = next((r.value for r in guests if r.name == "guests: full copies"), None)
            print(table("seconds for one guest; ratio to a full copy", guests, copy))
        if aims.COLD in measured and (bench.out / "manifest.json").is_file():
            own = stages(bench.out)
            print(table("stages of imagekit, cold", own, sum(r.value or 0 for r in own)))
        print(aims_table(measured))


if __name__ == "__main__":
    main()
