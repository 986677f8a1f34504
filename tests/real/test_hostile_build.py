"""A build whose package, initramfs hook, element and script all attack the host that builds."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles import tiny_installer
from oracles.builds import Build, Run
from oracles.elements import make_element
from support.hostile import Attempt, Host, attacked_host, attempts, successes
from support.hostile_archive import ATTACK, archive

pytestmark = pytest.mark.real
REPLACE = f"""
#!/bin/bash
set -eu
{ATTACK} element-finalise
for name in systemctl env depmod dpkg-query; do
    found=$(command -v $name)
    mv $found $found.real
    printf '#!/bin/sh\\n[ -e /var/tmp/attack-'$name' ] || {{ : > /var/tmp/attack-'$name';
        {ATTACK} '$name' >&2; }}\\nexec '$found'.real "$@"\\n' > $found
    chmod 755 $found
done
cp {ATTACK} /usr/bin/rootshell
chmod 6755 /usr/bin/rootshell
echo /usr/lib/hostile.so > /etc/ld.so.preload
"""
WAYS = (
    *("preinst-install", "postinst-configure", "postinst-triggered", "initramfs-hook"),
    *("element-beside", "element-install", "element-finalise", "script"),
    *("systemctl", "env", "preload"),
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with attacked_host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(scope="module")
def site(
    host: Host, demo: Build, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A directory with a spec, its scripts and its element; the archive is served meanwhile."""
    directory = tmp_path_factory.mktemp("hostile")
    tree_tar = tiny_installer.debian_tree_of(demo, cache)
    with archive(tree_tar, host.program, tmp_path_factory.mktemp("served")) as served:
        beside = f"#!/bin/bash\n$TMP_MOUNT_PATH{ATTACK} element-beside\n"
        files = {
            "extra-data.d/10-attack": beside,
            "install.d/10-attack": f"#!/bin/bash\n{ATTACK} element-install\n",
            "finalise.d/90-attack": REPLACE,
        }
        make_element(directory / "elements", "hostile", files)
        (directory / "attack.sh").write_text(f"#!/usr/bin/env sh\n{ATTACK} script\n")
        spec = {
            "name": "hostile",
            "os": {"distribution": "debian", "suite": "bookworm", **served},
            "install": {
                "method": "debootstrap",
                "variant": "essential",
                "packages": ["hostile", "hostile-more"],
                "elements": ["hostile"],
                "element_path": ["elements"],
            },
            "disk": {"size": "1GiB", "formats": ["raw"]},
            "boot": {"modes": ["pv"]},
            "scripts": ["attack.sh"],
        }
        (directory / "hostile.yaml").write_text(json.dumps(spec))
        yield directory


@pytest.fixture(scope="module")
def found(site: Path, build: Callable[..., Build]) -> dict[str, list[Attempt]]:
    """What was tried in the build, by the way that it came in."""
    made = build(site / "hostile.yaml")
    by_way = defaultdict(list)
    for log in sorted((made.path / "logs").iterdir()):
        for attempt in attempts(log.read_text(errors="replace")):
            by_way[attempt.way].append(attempt)
    return by_way


@pytest.mark.parametrize("way", WAYS)
def test_no_attempt_of_a_build_succeeds(
    found: dict[str, list[Attempt]], host: Host, way: str
) -> None:
    assert {a.name for a in found[way]} == set(host.names())
    assert successes(found[way]) == {}
    assert host.harm() == []
