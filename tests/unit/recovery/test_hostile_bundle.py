"""What a stranger writes into a bundle, or into a build to bundle, gets nothing of the host."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.manifests import artefact, write_manifest

from imagekit.errors import ImagekitError, SpecError, VerificationError
from imagekit.host.signing import SIGNATURES
from imagekit.pipeline.events import Events
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.recovery import container, unpacked
from imagekit.recovery.about import About
from imagekit.recovery.bundle import make_bundle
from imagekit.recovery.container import OWN, read_container, write_container
from imagekit.recovery.sealing import Unlock
from imagekit.recovery.unpacked import Bundle, missing_secrets, open_bundle, unpack_tree
from imagekit.spec.load import SpecFile, load_spec
from imagekit.spec.lock import Lock, lock_text

SPEC = """name: web1
os: {suite: bookworm}
install: {method: debootstrap}
identity: {root_password: {env: ROOT_HASH}, users: [{name: anna, password: {file: ./anna}}]}
"""


@pytest.fixture(autouse=True)
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    with workspace(Events()) as made:
        yield made


@pytest.mark.parametrize("own", OWN)
def test_a_member_cannot_be_named_as_a_file_of_the_bundles_own(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b"
    for name in (own, f"{own}/x"):
        with pytest.raises(VerificationError, match="bundle's own"):
            write_container(path, {}, [(name, b"lie")], None)
        with monkeypatch.context() as careless:
            careless.setattr(container, "check_name", lambda name: name)
            write_container(path, {}, [(name, b"lie")], None, overwrite=True)
        (tmp_path / "out").mkdir()
        with pytest.raises(VerificationError, match="bundle's own"):
            read_container(path, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
        (tmp_path / "out").rmdir()
    assert {*SIGNATURES, "index.json", "SHA256SUMS"} == set(OWN)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a/b/c/d"), ("x", "a", "a/b"), ("a", "a")])
def test_members_that_cannot_lie_in_one_directory_are_refused(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b"
    sources: list[tuple[str, Path | bytes]] = [(name, b"") for name in names]
    with pytest.raises(VerificationError):
        write_container(path, {}, sources, None)
    assert not path.exists()
    with monkeypatch.context() as careless:
        careless.setattr(container, "check_names", lambda _: None)
        write_container(path, {}, sources, None)
    with pytest.raises(VerificationError) as caught:
        read_container(path)
    assert caught.value.where == str(path)


def tree(path: Path, entries: list[tuple[str, str | None]]) -> Path:
    """A tar file of (name, link), or (name, None) for a directory."""
    with tarfile.open(path, "w") as tar:
        for name, link in entries:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if link is None else tarfile.SYMTYPE
            info.linkname = link or ""
            tar.addfile(info)
    return path


@pytest.mark.parametrize(
    "entries",
    [
        [("a/b", None), ("x", None), ("a/b/l", "../.."), ("a/b/l/x/y", "../../../../outside")],
        [
            ("x/y", None),
            ("a/b/c", None),
            ("a/b/c/l", "../../../x"),
            ("a/b/c/l/y/z", "../../../../../o"),
        ],
        [("a", None), ("l", "a"), ("l/m", "../o")],
        [("a/l", ".."), ("./a/./l/m", "../../o")],
        [("l", "l")],
        [("l", "m"), ("m", "l/x")],
        [("a/b", None), ("a/b", "../..")],
        [("a", "b"), ("a", "c")],
    ],
)
def test_links_that_lead_out_by_other_links_are_refused(
    entries: list[tuple[str, str | None]], tmp_path: Path
) -> None:
    tree(tmp_path / "t.tar", entries)
    with pytest.raises(VerificationError, match="cannot be unpacked"):
        made = unpack_tree(tmp_path, "t.tar")
        pytest.fail(f"unpacked {sorted(made.rglob('*'))}")


WORDS = st.lists(st.sampled_from(["a", "b", "l", "..", "."]), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(entries=st.lists(st.tuples(WORDS, st.none() | WORDS), min_size=1, max_size=6))
def test_no_link_of_a_tree_that_is_taken_leads_out_of_it(
    entries: list[tuple[list[str], list[str] | None]],
) -> None:
    with tempfile.TemporaryDirectory(prefix="imagekit-tree-") as name:
        base = Path(name)
        named = [("/".join(n), None if t is None else "/".join(t)) for n, t in entries]
        tree(base / "t.tar", named)
        try:
            made = unpack_tree(base, "t.tar")
        except VerificationError:
            return
        root = os.path.realpath(made)
        for path in made.rglob("*"):
            assert f"{os.path.realpath(path)}/".startswith(f"{root}/")
        assert {p.name for p in base.iterdir()} == {"t.tar", ".trees"}


def test_one_tree_under_two_names_is_an_error_and_no_trace(tmp_path: Path) -> None:
    tree(tmp_path / "t.tar", [("a", None)])
    unpack_tree(tmp_path, "t.tar")
    with pytest.raises(VerificationError, match="cannot be unpacked"):
        unpack_tree(tmp_path, "t.tar")


def opened(
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    space: Workspace,
    secrets: dict[str, str],
    spec: str = SPEC,
) -> Bundle:
    """A bundle of ``spec`` with sealed ``secrets``, opened; the seal is none."""
    (base / "bundled.yaml").write_text(spec)
    lock = Lock(
        name="web1",
        spec_sha256=load_spec(base / "bundled.yaml").sha256,
        method="debootstrap",
        source_date_epoch=0,
    )
    write_manifest(base, name="web1")
    about = About(name="web1", imagekit="0", sealed=["secrets.json.gpg"])
    sources: list[tuple[str, Path | bytes]] = [
        ("spec.yaml", spec.encode()),
        ("lock.yaml", lock_text(lock).encode()),
        ("manifest.json", base / "manifest.json"),
        ("secret-0", b"a member"),
        ("secrets.json.gpg", json.dumps(secrets).encode()),
    ]
    write_container(base / "b", about.to_json(), sources, None, overwrite=True)
    monkeypatch.setattr(unpacked, "unseal", lambda source, target, *_: shutil.copy(source, target))
    return open_bundle(base / "b", None, workspace=space, keys=Unlock(), insecure_unsigned=True)


@pytest.mark.parametrize(
    "entry",
    [
        *("env:LD_PRELOAD", "env:PATH", "env:SOURCE_DATE_EPOCH", "env:root_hash", "env:", "env"),
        *("file:/etc/passwd", "file:anna", "file:spec.yaml", "other:ROOT_HASH", ""),
    ],
)
def test_a_sealed_secret_is_one_that_the_spec_names(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Workspace
) -> None:
    with pytest.raises(VerificationError, match="no use"):
        opened(tmp_path, monkeypatch, space, {"env:ROOT_HASH": "x", entry: "x"})


def test_sealed_secrets_of_the_spec_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Workspace
) -> None:
    secrets = {"env:ROOT_HASH": "$y$root", "file:./anna": "$y$anna"}
    bundle = opened(tmp_path, monkeypatch, space, secrets)
    assert bundle.secrets == secrets and bundle.recipe is not None
    file = bundle.recipe.spec.resolve("./anna")
    assert file.read_text() == "$y$anna" and file.stat().st_mode & 0o777 == 0o600
    assert (bundle.directory / "secret-0").read_bytes() == b"a member"


@pytest.mark.parametrize(
    "more",
    [
        "files: [{target: /etc/x, source: /etc/shadow}]",
        "files: [{target: /etc/x, source: ./beside}]",
        "scripts: [/usr/bin/id]",
    ],
)
def test_a_bundled_spec_names_no_files_of_the_host(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Workspace
) -> None:
    (tmp_path / "beside").write_text("of the host")
    (tmp_path / "anna").write_text("$y$anna")
    bundle = opened(tmp_path, monkeypatch, space, {}, f"{SPEC}{more}\n")
    assert bundle.recipe is not None
    file = bundle.recipe.spec
    spec = file.spec
    (name,) = [*spec.scripts, *(f.source for f in spec.files if f.source)]
    with pytest.raises(VerificationError, match="does not hold"):
        file.resolve(name)
    assert file.resolve("./anna") == tmp_path / "anna"
    assert missing_secrets(bundle, ["ROOT_HASH"]) == []


def bundled(base: Path, space: Workspace) -> Path:
    """Make a bundle of the build ``base/build`` of an installer, as make_bundle does."""
    file = load_spec(base / "web1.yaml")
    make_bundle(base / "build", file, base / "b", workspace=space)
    return base / "b"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    made = tmp_path / "build"
    made.mkdir()
    (tmp_path / "web1.yaml").write_text(
        "name: web1\nos: {suite: bookworm}\ninstall: {method: iso, iso: ./x.iso}\n"
    )
    file: SpecFile = load_spec(tmp_path / "web1.yaml")
    lock = {"name": "web1", "spec_sha256": file.sha256, "method": "iso", "source_date_epoch": 0}
    (made / "web1.lock").write_text(lock_text(Lock.model_validate(lock)))
    (made / "web1.raw").write_bytes(bytes(1024))
    for name in ("web1-vmlinuz", "web1.cfg"):
        (made / name).write_text(name)
    write_manifest(
        made,
        artefacts=[
            artefact("disk", "web1.raw", format="raw", virtual_size=1024),
            artefact("kernel", "web1-vmlinuz"),
            artefact("domain-config", "web1.cfg", mode="pv", toolstack="xl"),
        ],
        name="web1",
        spec_sha256=file.sha256,
    )
    return made


@pytest.mark.parametrize(
    "name", ["web1.lock", "web1.raw", "web1-vmlinuz", "web1.cfg", "manifest.json"]
)
def test_a_bundle_of_a_build_packs_nothing_from_outside_it(
    name: str, build: Path, tmp_path: Path, space: Workspace
) -> None:
    whole = bundled(tmp_path, space)
    assert name.encode() in whole.read_bytes() or name == "web1.lock" or name == "web1.raw"
    whole.unlink()
    outside = tmp_path / "outside"
    (build / name).rename(outside)
    for link in (outside, Path("../outside")):
        (build / name).symlink_to(link)
        with pytest.raises(SpecError, match="leads out of the build"):
            bundled(tmp_path, space)
        (build / name).unlink()
    assert not whole.exists()


def test_a_pipe_or_a_directory_in_a_build_holds_no_bundle_up(
    build: Path, tmp_path: Path, space: Workspace
) -> None:
    for make in (os.mkfifo, os.mkdir):
        (build / "web1.cfg").unlink()
        make(build / "web1.cfg")
        with pytest.raises(VerificationError, match=r"web1\.cfg is no file"):
            bundled(tmp_path, space)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../web1.yaml", "a/../../web1.yaml"])
@pytest.mark.parametrize("role", ["disk", "kernel", "domain-config"])
def test_a_manifest_that_names_files_of_the_host_is_not_bundled(
    role: str, path: str, build: Path, tmp_path: Path, space: Workspace
) -> None:
    value = json.loads((build / "manifest.json").read_text())
    for one in value["artefacts"]:
        if one["role"] == role:
            one["path"] = path
    (build / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(ImagekitError, match="leads out of the build"):
        bundled(tmp_path, space)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [(64 << 10) + 512, 256 << 20, 8 << 30])
def test_a_tar_header_says_what_it_likes_of_its_size(
    tmp_path: Path, kind: bytes, size: int
) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, size
    tree = tmp_path / "t.tar"
    with tree.open("wb") as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        stream.truncate(min(size, 300 << 20) + 2048)
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError, match="larger than 64 KiB"):
            unpack_tree(tmp_path, "t.tar")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_long_names_and_large_members_are_unpacked(tmp_path: Path) -> None:
    name = "/".join(["d" * 100] * 9) + "/file"
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = 200_000
        for depth in range(1, 10):
            folder = tarfile.TarInfo("/".join(["d" * 100] * depth))
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        tar.addfile(info, io.BytesIO(b"x" * 200_000))
    made = unpack_tree(tmp_path, "t.tar")
    assert (made / name).read_bytes() == b"x" * 200_000
