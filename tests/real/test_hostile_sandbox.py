"""Everything that a program tries from inside the sandbox fails, whatever the sandbox is for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.ordinary_user import AsUser
from support.attacked_host import Host, attacked_host, attempts, bare_tree, successes

from imagekit.host.sandbox import profiles
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import Profile

pytestmark = pytest.mark.real
PROFILES = {
    p.name: p for p in vars(profiles).values() if isinstance(p, Profile) and p.user_namespace
}
"""All but the one that runs programs of the host alone, on disks of its own."""
OWN_MOUNTS = {
    *("mount-tmpfs", "mount-proc", "mount-bind", "mount-cgroup", "remount", "unmount"),
    *("mount-by-descriptor", "open-tree", "mount-setattr", "pivot-root", "unshare-mount"),
    *("unshare-net", "mount-32", "capabilities", "host-name"),
}
"""What those may who make root file systems: change the mounts that are theirs alone."""
MAY: dict[str, set[str]] = {"root element": OWN_MOUNTS}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with attacked_host(tmp_path_factory.mktemp("host")) as made:
        yield made


def shown(found: dict[str, str]) -> str:
    return "\n".join(f"{name}: {detail}" for name, detail in found.items())


@pytest.mark.parametrize("network", [False, True], ids=["alone", "network"])
@pytest.mark.parametrize("beside", [False, True], ids=["in", "beside"])
@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_attempt_fails_and_the_host_is_as_it_was(
    host: Host, tmp_path: Path, name: str, *, beside: bool, network: bool
) -> None:
    host.callers.clear()
    tree = bare_tree(host, tmp_path / "tree")
    box = Sandbox(tree, PROFILES[name], network=network)
    if beside:
        box = Sandbox(tmp_path, PROFILES[name], True, writable={tree: "/tree"}, network=network)
    program = "/tree/usr/bin/attack" if beside else "/usr/bin/attack"
    found = attempts(box.run([program, name.replace(" ", "-")], env={}, timeout=60).text)
    assert [a.name for a in found] == host.names()
    bad = {n: d for n, d in successes(found).items() if n not in MAY.get(name, ())}
    assert not bad, shown(bad)
    assert host.harm() == []


AS_USER = """
import sys
from pathlib import Path
from imagekit.host.sandbox import profiles
from imagekit.host.sandbox.box import Sandbox
box = Sandbox(Path(sys.argv[1]), getattr(profiles, sys.argv[2]), network=sys.argv[3] == "True")
print(box.run(["/usr/bin/attack", "user"], env={}, timeout=60).text)
"""


@pytest.mark.parametrize("network", [False, True], ids=["alone", "network"])
@pytest.mark.parametrize("name", ["SCRIPT", "ROOT_ELEMENT"])
def test_every_attempt_fails_when_an_ordinary_user_builds(
    host: Host, tmp_path: Path, as_builder: AsUser, name: str, *, network: bool
) -> None:
    host.callers.clear()
    tree = bare_tree(host, tmp_path / "home/tree")
    for path in (tree, *tree.rglob("*")):
        os.chown(path, 4321, 4321)
    done = as_builder(sys.executable, "-c", AS_USER, tree, name, str(network))
    found = attempts(done.stdout)
    assert [a.name for a in found] == host.names(), done.stderr
    may = MAY.get(getattr(profiles, name).name, ())
    bad = {n: d for n, d in successes(found).items() if n not in may}
    assert not bad, shown(bad)
    assert host.harm() == []
