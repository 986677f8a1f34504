"""Versions of the tools on this host, for manifests and stage keys."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from imagekit.host import tools
from imagekit.host.run import run


@functools.cache
def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of Debian packages; what is not installed is left out."""
    if tools.find("dpkg-query") is None:
        return {}
    listing = run(
        ["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${db:Status-Status}\n", *packages],
        check=False,
        timeout=30,
    ).text
    rows = [line.split("\t") for line in listing.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}


def tool_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that bring the tools ``names``."""
    wanted = tuple(sorted({tools.PACKAGES[name] for name in names}))
    return package_versions(wanted)
