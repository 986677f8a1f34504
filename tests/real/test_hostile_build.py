"""A build whose package, initramfs hook, element and script all attack the host that builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles import tiny_installer
from oracles.builds import Build
from oracles.elements import make_element
from support.attacked_host import Attempt, Host, attacked_host, attempts, successes
from support.attacking_archive import ATTACK, archive

pytestmark = pytest.mark.real
REPLACE = f"""
#!/bin/bash
set -eu
root=$TMP_MOUNT_PATH
for name in systemctl env depmod dpkg-query; do
    found=$(cd $root && ls -d usr/sbin/$name usr/bin/$name 2> /dev/null | head -n 1)
    mv $root/$found $root/$found.real
    cat > $root/$found <<-EOF
	#!/bin/sh
	if [ ! -e /var/lib/attack-$name ]; then
		: > /var/lib/attack-$name
		{ATTACK} $name >&2
	fi
	exec /$found.real "\\$@"
	EOF
    chmod 755 $root/$found
done
cp $root{ATTACK} $root/usr/bin/rootshell
chmod 6755 $root/usr/bin/rootshell
echo /usr/lib/hostile.so > $root/etc/ld.so.preload
"""
WAYS = (
    *("preinst-install", "postinst-configure", "postinst-triggered", "initramfs-hook"),
    *("element-beside", "element-install", "element-finalise", "script"),
    *("systemctl", "env", "depmod", "dpkg-query", "preload"),
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
        # The element dpkg runs apt-get, and elements have no network.
        beside = f"""
            #!/bin/bash
            set -eu
            $TMP_MOUNT_PATH{ATTACK} element-beside
            ln -sf true $TMP_MOUNT_PATH/usr/bin/apt-get
            """
        files = {
            "extra-data.d/10-attack": beside,
            "install.d/10-attack": f"#!/bin/bash\n{ATTACK} element-install\n",
            "finalise.d/90-attack": f"#!/bin/bash\n{ATTACK} element-finalise\n",
            "cleanup.d/99-attack": REPLACE,
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
    """What was tried in the build, by the way that it came in: from the image, and from logs."""
    made = build(site / "hostile.yaml")
    texts = [log.read_text(errors="replace") for log in (made.path / "logs").iterdir()]
    by_way = defaultdict(list)
    for attempt in dict.fromkeys(attempts("\n".join([kept_log(made), *texts]))):
        by_way[attempt.way].append(attempt)
    return by_way


def kept_log(made: Build) -> str:
    """What the program wrote into the tree, read from the image."""
    raw = made.disk("raw")
    table = subprocess.run(["/sbin/sfdisk", "--json", raw], capture_output=True, check=True).stdout
    start = json.loads(table)["partitiontable"]["partitions"][-1]["start"] * 512
    argv = ["/sbin/debugfs", "-R", "cat /var/lib/attack.log", f"{raw}?offset={start}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("way", WAYS)
def test_no_attempt_of_a_build_succeeds(
    found: dict[str, list[Attempt]], host: Host, way: str
) -> None:
    assert {a.name for a in found[way]} == set(host.names())
    assert successes(found[way]) == {}
    assert host.harm() == []


LOWERED = """
import sys
from dataclasses import replace
from imagekit.host.sandbox import profiles
for name, profile in list(vars(profiles).items()):
    if isinstance(profile, profiles.Profile):
        setattr(profiles, name, replace(profile, processes=64, memory=768 << 20))
from imagekit.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def refused(
    site: Path, cache: Path, host: Host, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Builds a spec with changes, in lower bounds; it must fail, and the host stay as it was."""

    def run(**changes: object) -> subprocess.CompletedProcess[str]:
        spec = json.loads((site / "hostile.yaml").read_text())
        for name, value in changes.items():
            spec[name] = {**spec[name], **value} if isinstance(value, dict) else value
        path = site / "bomb.yaml"
        path.write_text(json.dumps(spec))
        host.callers.clear()
        argv: list[str | Path] = [
            sys.executable,
            "-c",
            LOWERED,
            "build",
            path,
            "-o",
            tmp_path / "o",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
        assert done.returncode == 5, done.stdout + done.stderr
        assert not (tmp_path / "o/hostile.raw").exists()
        assert successes(attempts(done.stderr)) == {}
        assert host.harm() == []
        return done

    return run


def script(site: Path, text: str) -> str:
    (site / "bomb.sh").write_text(f"#!/bin/sh\n{text}\n")
    return "bomb.sh"


@pytest.mark.parametrize(
    ("bomb", "bound"),
    [
        ("memory-bomb", "768 MiB of memory"),
        ("shared-bomb", "768 MiB of memory"),
        ("fork-bomb", "64 processes"),
    ],
)
def test_a_script_that_is_a_bomb_is_named(
    site: Path, refused: Callable[..., subprocess.CompletedProcess[str]], bomb: str, bound: str
) -> None:
    done = refused(scripts=[script(site, f"{ATTACK} x {bomb}")])
    assert re.search(rf"bomb.yaml:\d+:\d+ scripts.*the script bomb.sh .*{bound}", done.stderr)


def test_an_initramfs_hook_that_is_a_bomb_is_named(
    site: Path, refused: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    hook = "/etc/initramfs-tools/hooks/bomb"
    text = f"printf '#!/bin/sh\\n[ $1 = prereqs ] || {ATTACK} x fork-bomb\\n' > {hook}"
    done = refused(scripts=[script(site, f"{text}\nchmod 755 {hook}")])
    assert "making the initrd was stopped: it reached its bound of 64 processes" in done.stderr
    assert "its hook bomb was the last to run" in done.stderr


def test_an_element_that_is_a_bomb_is_named(
    site: Path, refused: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    files = {"install.d/20-bomb": f"#!/bin/bash\nset -e\n{ATTACK} x fork-bomb\n"}
    make_element(site / "elements", "bomb", files)
    done = refused(install={"elements": ["hostile", "bomb"]})
    assert re.search(r"the element bomb .*install.d/20-bomb.*64 processes", done.stderr)


def test_a_package_that_is_a_bomb_is_named(
    refused: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = refused(install={"packages": ["hostile", "hostile-bomb"]})
    assert "mmdebstrap was stopped: it reached its bound of 64 processes" in done.stderr
    assert "scripts of the package hostile-bomb had not ended" in done.stderr


def test_what_a_script_prints_does_not_act_on_the_terminal(
    site: Path, refused: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    text = "printf '\\033]0;owned\\007\\033[2J\\233[6n\\rimagekit: all is well\\n' >&2; exit 1"
    done = refused(scripts=[script(site, text)])
    assert "owned" in done.stderr
    assert all(c.isprintable() or c == "\n" for c in done.stderr), done.stderr
