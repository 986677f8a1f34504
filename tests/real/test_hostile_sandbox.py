"""Everything that a program tries from inside the sandbox fails, whatever the sandbox is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hostile import Host, attacked_host, attempts, successes

from imagekit.host.chroot import chroot
from imagekit.host.sandbox import Sandbox

pytestmark = pytest.mark.real
INSIDE = {"PATH": "/usr/bin:/bin"}
Ran = Callable[..., str]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with attacked_host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture
def tree(host: Host, tmp_path: Path) -> Path:
    """A tree with nothing in it but the program."""
    root = tmp_path / "tree"
    for name in ("etc", "usr/bin", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
    (root / "usr/bin/attack").hardlink_to(host.program)
    return root


def in_tree(tree: Path, network: bool, *argv: str, timeout: float = 60) -> str:
    return (
        Sandbox(tree, network=network)
        .run(["/usr/bin/attack", *argv], env=INSIDE, timeout=timeout)
        .text
    )


def by_chroot(tree: Path, network: bool, *argv: str, timeout: float = 60) -> str:
    return chroot(tree, ["/usr/bin/attack", *argv], network=network, timeout=timeout).text


def beside(tree: Path, mounting: bool, *argv: str, timeout: float = 60) -> str:
    root = tree.with_name("root")
    root.mkdir()
    box = Sandbox(root, host_programs=True, mounting=mounting, writable={tree: "/tree"})
    return box.run(["/tree/usr/bin/attack", *argv], env=INSIDE, timeout=timeout).text


WAYS = {
    "element": (in_tree, False),
    "element-network": (in_tree, True),
    "beside": (beside, False),
    "beside-mounting": (beside, True),
    "tree-program": (by_chroot, False),
    "script": (by_chroot, True),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_attempt_fails_and_the_host_is_as_it_was(host: Host, tree: Path, way: str) -> None:
    run, flag = WAYS[way]
    found = attempts(run(tree, flag, way))
    assert [a.name for a in found] == host.names()
    assert successes(found) == {}
    assert host.harm() == []
