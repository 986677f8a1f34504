"""A package more costs that package, and gives what a build from nothing gives."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.counting_proxy import CountingProxy, counting_proxy

from imagekit.host.sandbox.network import TUN
from imagekit.host.userns import remove_tree
from imagekit.installs.context import context_for
from imagekit.installs.debootstrap import tree_stages
from imagekit.installs.mirrors import mirrors_for
from imagekit.installs.stages.rootfs import Rootfs
from imagekit.installs.tree_packages import wanted_packages
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import StageResult, execute
from imagekit.pipeline.plan import make_plan
from imagekit.pipeline.stage import Stage, Target, digest_file
from imagekit.pipeline.store import Store
from imagekit.spec.load import load_spec

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not TUN.exists(), reason="missing: /dev/net/tun"),
]

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
FEW, MORE = "less, openssh-client", "less, openssh-client, psmisc, nginx-light"
NEW = {"psmisc", "nginx-light", "nginx", "nginx-common", "libnginx-mod-http-echo"}
"""What Debian 12 installs for the packages of MORE that FEW has not."""


class Trees:
    """Builds trees below ``base``, in one store after another, through one proxy."""

    def __init__(self, base: Path, proxy: CountingProxy, patch: pytest.MonkeyPatch) -> None:
        self._base = base
        self._patch = patch
        self.proxy = proxy

    def store(self, name: str) -> Path:
        """Use the store of this name from now on."""
        self._patch.setenv("IMAGEKIT_CACHE", str(self._base / name))
        return self._base / name / "store"

    def build(self, packages: str, *, at_once: bool = False) -> dict[str, StageResult]:
        """The tree of a guest with ``packages``, without a kernel; only what is not stored."""
        path = self._base / "g.yaml"
        path.write_text(
            f"name: g\nos: {{suite: bookworm, proxy: {self.proxy.url}}}\n"
            f"install: {{method: debootstrap, kernel: ./k, packages: [{packages}]}}\n"
        )
        file = load_spec(path)
        context = context_for(file, self._base / "out", EPOCH)
        mirrors = mirrors_for(file)
        wanted = wanted_packages(file.spec)
        stages: list[Stage] = [Rootfs(context, mirrors, wanted)]
        if not at_once:
            stages = tree_stages(context, mirrors, {*wanted})
        made = stages[-1].makes[0]
        plan = make_plan(stages, [Target(made, made, "tree")], context.environment)
        self.proxy.asked.clear()
        return execute(plan, Store(), Events(), guest="g", fresh=False, digest=digest_file)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trees]:
    base = tmp_path_factory.mktemp("layers")
    with counting_proxy() as proxy, pytest.MonkeyPatch.context() as patch:
        found = Trees(base, proxy, patch)
        found.store("one")
        found.build(FEW)
        yield found
    remove_tree(base)


@pytest.fixture(scope="module")
def grown(trees: Trees) -> tuple[dict[str, StageResult], set[str]]:
    """The tree of MORE on the base that was stored for FEW, and what was fetched for it."""
    trees.store("one")
    results = trees.build(MORE)
    return results, trees.proxy.packages()


def digest(results: dict[str, StageResult]) -> str:
    return digest_file(results["packages"].entry.files["packages.tar"])


def files_of(path: Path) -> dict[str, bytes]:
    """The regular files of a tar file by name, those that are read here."""
    wanted = ("./var/lib/dpkg/", "./var/lib/apt/", "./etc/alternatives", "./etc/passwd")
    with tarfile.open(path) as tar:
        return {
            member.name: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.isreg() and member.name.startswith(wanted)
        }


def test_a_package_more_fetches_that_package(
    grown: tuple[dict[str, StageResult], set[str]],
) -> None:
    results, fetched = grown
    assert results["rootfs"].cached
    assert fetched == NEW


def test_it_is_the_tree_of_a_build_with_an_empty_store(
    trees: Trees, grown: tuple[dict[str, StageResult], set[str]]
) -> None:
    trees.store("two")
    assert digest(trees.build(MORE)) == digest(grown[0])
    assert {"libc6", "systemd", *NEW} <= trees.proxy.packages()


def test_all_at_once_gives_the_same_packages_states_and_lists(
    trees: Trees, grown: tuple[dict[str, StageResult], set[str]]
) -> None:
    trees.store("one")
    at_once = trees.build(MORE, at_once=True)["rootfs"].entry.files
    assert trees.proxy.packages() == set()
    layered = grown[0]["packages"].entry.files
    assert json.loads(at_once["sources.json"].read_text()) == json.loads(
        layered["sources-all.json"].read_text()
    )
    one, other = files_of(at_once["rootfs.tar"]), files_of(layered["packages.tar"])
    states = "./var/lib/apt/extended_states"
    assert set(one[states].split(b"\n\n")) == set(other[states].split(b"\n\n"))
    # Users are numbered as they come: those of the base first.
    odd = {states, "./var/lib/dpkg/status-old", "./etc/passwd", "./etc/passwd-"}
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} <= odd
    accounts = [
        {line.split(b":")[0] for line in t["./etc/passwd"].splitlines()} for t in (one, other)
    ]
    assert accounts[0] == accounts[1]


@pytest.mark.parametrize("size", ["same", "shorter"])
def test_a_forged_package_in_the_store_is_fetched_anew(
    trees: Trees, grown: tuple[dict[str, StageResult], set[str]], size: str
) -> None:
    store = trees.store("one")
    sources = json.loads(grown[0]["packages"].entry.files["sources-all.json"].read_text())
    sha256 = next(row["sha256"] for row in sources["packages"] if row["name"] == "psmisc")
    kept = store / "files" / sha256
    data = kept.read_bytes()
    forged = data[:-1] + bytes([data[-1] ^ 1])
    kept.write_bytes(forged if size == "same" else data[:100])
    for made in store.glob("objects/*/packages-all.json"):
        (made.parent / "object.json").unlink(missing_ok=True)
    assert digest(trees.build(MORE)) == digest(grown[0])
    assert trees.proxy.packages() == {"psmisc"}
    assert kept.read_bytes() == data
