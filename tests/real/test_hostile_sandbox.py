"""Everything that a program tries from inside the sandbox fails, whatever the sandbox is for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
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
