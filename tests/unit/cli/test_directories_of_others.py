"""What believes a directory, or works in it by names, refuses one that strangers could change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles.manifests import artefact, write_manifest
from support.domains import RELATIVE, make_build
from support.strangers import STRANGER, given_away, needs_root

from imagekit.cli.config import load_facts
from imagekit.errors import HostError
from imagekit.netboot.netguest import NetbootGuest
from imagekit.netboot.publish import Site, flip, publish
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.proof.prove import prove, prove_image
from imagekit.provision.golden import Golden, open_golden
from imagekit.provision.journal import guests_directory
from imagekit.provision.provision import ProvisionOptions, provision
from imagekit.recovery.bundle import make_bundle
from imagekit.spec.load import load_spec

pytestmark = needs_root
XL = """name = "web1"
type = "pv"
memory = 512
kernel = "/boot/vmlinuz"
disk = ["format=raw,vdev=xvda,access=rw,target=/b/web1.raw"]
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMAGEKIT_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    with workspace(Events()) as made:
        yield made


def config(build: Path, space: Workspace) -> None:
    load_facts(build)


def bundle(build: Path, space: Workspace) -> None:
    spec = build.parent.parent / "web1.yaml"
    spec.write_text("name: web1\nos: {suite: bookworm}\ninstall: {method: debootstrap}\n")
    make_bundle(build, load_spec(spec), build.parent.parent / "b", workspace=space)


def golden(build: Path, space: Workspace) -> None:
    open_golden(build)


def proof(build: Path, space: Workspace) -> None:
    prove(build, Events())


def guests(directory: Path, space: Workspace) -> None:
    image = Golden(directory, RELATIVE, directory / "x", "raw", 1, "0" * 64, None, None)
    provision([], image, ProvisionOptions(directory), workspace=space)


def tree(directory: Path, space: Workspace) -> None:
    (directory.parent.parent / "linux").write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    guest = NetbootGuest("g", "00:16:3e:10:20:30", directory.parent.parent / "linux", None, args="")
    publish(Site(directory), [guest])


def switch(directory: Path, space: Workspace) -> None:
    flip(directory, "g", "local")


def report(directory: Path, space: Workspace) -> None:
    base = directory.parent.parent
    (base / "web1.cfg").write_text(XL)
    (base / "disk").write_bytes(bytes(4096))
    prove_image(base / "web1.cfg", base / "disk", directory, Events())


USES = [config, bundle, golden, proof, guests, tree, switch, report]


def its_owner(directory: Path) -> None:
    given_away(directory)


def its_writers(directory: Path) -> None:
    directory.chmod(0o777)


def the_owner_above(directory: Path) -> None:
    given_away(directory.parent)


def the_writers_above(directory: Path) -> None:
    directory.parent.chmod(0o777)


@pytest.mark.parametrize("change", [its_owner, its_writers, the_owner_above, the_writers_above])
@pytest.mark.parametrize("use", USES)
def test_a_directory_that_strangers_could_change_is_refused(
    tmp_path: Path,
    space: Workspace,
    use: Callable[[Path, Workspace], None],
    change: Callable[[Path], None],
) -> None:
    (tmp_path / "above").mkdir()
    directory = make_build(tmp_path / "above/build", RELATIVE)
    change(directory)
    with pytest.raises(HostError, match=f"belongs to uid {STRANGER}|writable for everybody"):
        use(directory, space)
    assert [path.name for path in directory.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("below", ["tftp", "answers", "tftp/images"])
def test_a_tree_with_a_stranger_s_directory_in_it_is_refused(
    tmp_path: Path, space: Workspace, below: str
) -> None:
    root = tmp_path / "above/root"
    (root / below).mkdir(parents=True)
    given_away(root / below)
    (tmp_path / "linux").write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    guest = NetbootGuest(
        "g", "00:16:3e:10:20:30", tmp_path / "linux", None, args="url={answers}", answers="x"
    )
    with pytest.raises(HostError, match=f"{below} belongs to uid {STRANGER}"):
        publish(Site(root, http="http://192.0.2.1"), [guest])


def test_a_state_that_strangers_could_change_is_refused(tmp_path: Path, space: Workspace) -> None:
    guests_directory()
    given_away(tmp_path / "state")
    with pytest.raises(HostError, match="IMAGEKIT_STATE"):
        guests_directory()


@pytest.mark.parametrize("what", ["disk", "kernel"])
def test_files_that_strangers_could_change_are_not_proven(
    tmp_path: Path, space: Workspace, what: str
) -> None:
    files = {name: tmp_path / name for name in ("disk", "kernel")}
    for path in files.values():
        path.write_bytes(bytes(4096))
    (tmp_path / "web1.cfg").write_text(XL.replace("/boot/vmlinuz", str(files["kernel"])))
    given_away(files[what])
    with pytest.raises(HostError, match="others could change it") as caught:
        prove_image(tmp_path / "web1.cfg", files["disk"], tmp_path / "out", Events())
    assert caught.value.where == str(files[what])


def test_a_build_of_one_s_own_is_believed(tmp_path: Path, space: Workspace) -> None:
    build = make_build(tmp_path / "build", RELATIVE)
    write_manifest(build, RELATIVE, [artefact("disk", "web1.raw", format="raw")])
    assert load_facts(build).name == "web1"
