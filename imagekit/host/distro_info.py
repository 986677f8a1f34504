"""Suites and time zones that this host knows, from Debian's packages distro-info-data and tzdata.

Without those packages nothing is known, and nothing can be said against a name.
"""

from __future__ import annotations

import csv
import zoneinfo
from functools import cache
from pathlib import Path

DISTRO_INFO = Path("/usr/share/distro-info")
"""A table for each distribution, with its suites in the column "series": debian-distro-info(1)."""
ALIASES = {"debian": ("oldoldstable", "oldstable", "stable", "testing", "unstable")}


@cache
def suites_of(distribution: str) -> tuple[str, ...]:
    """All suites that ``distribution`` (debian, ubuntu) ever had; nothing where none is known."""
    try:
        with (DISTRO_INFO / f"{distribution}.csv").open(encoding="utf-8", newline="") as stream:
            rows = [row["series"] for row in csv.DictReader(stream) if row.get("series")]
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()
    return (*rows, *ALIASES.get(distribution, ()))


def distribution_of(suite: str) -> str | None:
    """Whose suite ``suite`` is, of the distributions that this host knows."""
    return next((name for name in ("debian", "ubuntu") if suite in suites_of(name)), None)


def is_time_zone(name: str) -> bool:
    """Whether there is a time zone ``name``; True where this host knows none."""
    if any(Path(directory, name).is_file() for directory in zoneinfo.TZPATH):
        return True  # without reading the headers of all the others
    return name in time_zones() or not time_zones()


@cache
def time_zones() -> frozenset[str]:
    """The names of all time zones; nothing where tzdata is not installed."""
    known = set(zoneinfo.available_timezones())
    for directory in map(Path, zoneinfo.TZPATH):
        # zic(8): "L TARGET NAME" is another name of a zone; old names may be in another package.
        try:
            lines = (directory / "tzdata.zi").read_text(errors="replace").splitlines()
        except OSError:
            continue
        known |= {
            line.split()[2] for line in lines if line.startswith("L ") and line.count(" ") > 1
        }
    return frozenset(known)
