"""No member of a bundle holds the password of a mirror or of a proxy, in any form."""

from __future__ import annotations

import base64
import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.manifests import artefact, write_manifest

from imagekit.errors import SpecError
from imagekit.installs.stages.lockfile import input_digests
from imagekit.pipeline.events import Event, Events
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.recovery import bundle
from imagekit.recovery.container import read_container
from imagekit.recovery.credentials import passwords_of, require_no_passwords
from imagekit.recovery.unpacked import open_bundle
from imagekit.spec.credentials import credentials_in, without_credentials_in
from imagekit.spec.load import load_spec
from imagekit.spec.lock import Lock, lock_text

DEB = b"a package"
SECRET = "Gehe1m-%/@x"
"""What has to be escaped in a URL."""
USER = f"ada:{quote(SECRET, safe='')}"
BASE = """name: g
os: {suite: bookworm, mirror: 'MIRROR', keyring: keys.gpg}
install: {method: debootstrap, element_path: [mine], elements: [growroot]}
scripts: [./setup]
"""
PLAIN = "http://mirror.test/debian"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Iterator[Workspace]:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        bundle,
        "collect",
        lambda lock, debs, *_: (debs / lock.packages[0].filename).write_bytes(DEB),
    )

    def note(event: Event) -> None:
        said.append(str(event.fields.get("text", "")))

    with workspace(Events([note])) as made:
        yield made


def packed(
    base: Path,
    space: Workspace,
    spec: str,
    *,
    script: bytes = b"#!/bin/sh\n",
    element: bytes = b"#!/bin/sh\n",
    config: bytes = b"name = 'g'\n",
    lock_has: str = "",
) -> Path:
    """The bundle of a build of ``spec``, with the files that it names and what a build made."""
    base.mkdir()
    (base / "keys.gpg").write_bytes(b"keys")
    (base / "setup").write_bytes(script)
    (base / "mine/e/install.d").mkdir(parents=True)
    (base / "mine/e/install.d/10-x").write_bytes(element)
    (base / "g.yaml").write_text(spec)
    file = load_spec(base / "g.yaml")
    package = {"name": "hello", "version": "1", "architecture": "amd64", "path": "pool/h.deb"}
    known = {"size": len(DEB), "sha256": hashlib.sha256(DEB).hexdigest()}
    lock = Lock.model_validate(
        {
            **{"name": "g", "spec_sha256": file.sha256, "method": "debootstrap"},
            **{"source_date_epoch": 0, "inputs": input_digests(file)},
            **{"packages": [{**package, **known}], "sources": [lock_has] if lock_has else []},
        }
    )
    build = base / "build"
    build.mkdir()
    (build / "g.lock").write_text(lock_text(lock))
    (build / "g.pv.xl").write_bytes(config)
    disk = artefact("disk", "g.raw", format="raw", virtual_size=1)
    words = artefact("domain-config", "g.pv.xl", mode="pv", toolstack="xl")
    write_manifest(build, artefacts=[disk, words], name="g", spec_sha256=file.sha256)
    bundle.make_bundle(build, file, base / "b", workspace=space)
    return base / "b"


def everything(path: Path, out: Path) -> Iterator[tuple[str, bytes]]:
    """Every member, what is packed in it, and the whole file."""
    out.mkdir()
    for member in read_container(path, out).members:
        data = (out / member.name).read_bytes()
        yield member.name, data
        if member.name.endswith(".gz"):
            yield f"{member.name} unpacked", gzip.decompress(data)
        if member.name.endswith(".tar"):
            with tarfile.open(out / member.name) as tar:
                for info in tar:
                    inner = tar.extractfile(info) if info.isreg() else None
                    yield f"{member.name}/{info.name}", inner.read() if inner else b""
    yield "the whole", path.read_bytes()


FORMS = [SECRET, quote(SECRET, safe=""), quote(SECRET), USER, f"ada:{SECRET}"]
FORMS += [base64.b64encode(f"ada:{SECRET}".encode()).decode()]


def spec_with(where: str) -> str:
    """The spec with the password at ``where``."""
    spec = BASE.replace("MIRROR", PLAIN)
    url = f"http://{USER}@mirror.test"
    if where == "os.mirror":
        return BASE.replace("MIRROR", f"{url}/debian")
    if where in ("os.security_mirror", "os.proxy"):
        return spec.replace("keyring:", f"{where[3:]}: '{url}/', keyring:")
    if where == "a comment":
        return spec + f"# the old mirror: {url}/debian\n"
    if where == "a comment in a line":
        return spec.replace("scripts:", f"memory: 512  # see {url}/\nscripts:")
    variables = f"element_environment: {{DIB_MIRROR: 'a {url}/x b', http_proxy: '{url}/'}}"
    return spec.replace("elements:", f"{variables}, elements:")


PLACES = ["os.mirror", "os.security_mirror", "os.proxy", "a comment", "a comment in a line"]


@pytest.mark.parametrize("where", [*PLACES, "install.element_environment"])
def test_the_spec_goes_in_without_it_and_that_is_said(
    tmp_path: Path, space: Workspace, said: list[str], where: str
) -> None:
    made = packed(tmp_path / "here", space, spec_with(where))
    for name, data in everything(made, tmp_path / "out"):
        assert not [form for form in FORMS if form.encode() in data], name
    (note,) = [text for text in said if "left out of the spec" in text]
    assert (where if where.startswith(("os", "install")) else "comments") in note
    assert SECRET not in note and USER not in note
    opened = open_bundle(made, None, workspace=space)
    assert opened.recipe is not None
    assert opened.recipe.spec.sha256 == load_spec(tmp_path / "here/g.yaml").sha256
    if where == "os.mirror":
        assert opened.recipe.spec.spec.os.mirror == PLAIN


def test_a_spec_without_one_goes_in_as_it_is(
    tmp_path: Path, space: Workspace, said: list[str]
) -> None:
    text = BASE.replace("MIRROR", PLAIN) + "# a comment, of ada@example.org\n"
    made = packed(tmp_path / "here", space, text)
    content = dict(everything(made, tmp_path / "out"))
    assert b"# a comment, of ada@example.org" in content["spec.yaml"]
    assert not [line for line in said if "left out of the spec" in line]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["script", "element", "config"])
def test_a_file_that_holds_it_is_refused_by_name(
    tmp_path: Path, space: Workspace, where: str, form: str
) -> None:
    content = b"#!/bin/sh\n" + b"# x\n" * 400_000 + f"curl {form}\n".encode()
    with pytest.raises(SpecError, match="password of a mirror or a proxy") as caught:
        packed(
            tmp_path / "here",
            space,
            spec_with("os.mirror"),
            script=content if where == "script" else b"#!/bin/sh\n",
            element=content if where == "element" else b"#!/bin/sh\n",
            config=content if where == "config" else b"",
        )
    names = {"script": "./setup (inputs/", "element": "mine (trees/", "config": "configs/g.pv.xl"}
    assert names[where] in str(caught.value)
    assert form not in str(caught.value)
    assert not (tmp_path / "here/b").exists()


@pytest.mark.parametrize("known_by", ["the environment", "apt"])
def test_passwords_of_the_host_are_looked_for_too(
    tmp_path: Path, space: Workspace, monkeypatch: pytest.MonkeyPatch, known_by: str
) -> None:
    etc = tmp_path / "apt"
    etc.mkdir()
    if known_by == "apt":
        (etc / "auth.conf").write_text(f"machine mirror.test login ada password {SECRET}\n")
    else:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{USER}@proxy.test:3128")
    (tmp_path / "keys.gpg").write_bytes(b"keys")
    (tmp_path / "g.yaml").write_text(BASE.replace("MIRROR", PLAIN))
    found = passwords_of(load_spec(tmp_path / "g.yaml"), etc)
    with pytest.raises(SpecError, match=r"inputs/0001"):
        require_no_passwords("inputs/0001", f"echo {SECRET}".encode(), found)
    require_no_passwords("inputs/0001", b"echo ada", found)


@pytest.mark.parametrize("kind", ["lock", "config"])
def test_what_a_build_wrote_may_hold_no_password_in_a_url_at_all(
    tmp_path: Path, space: Workspace, kind: str
) -> None:
    url = "https://someone:else@archive.test/debian"
    with pytest.raises(SpecError, match="password in a URL"):
        packed(
            tmp_path / "here",
            space,
            BASE.replace("MIRROR", PLAIN),
            config=f"extra = 'url={url}'\n".encode() if kind == "config" else b"",
            lock_has=f"deb {url} bookworm main" if kind == "lock" else "",
        )


def test_it_is_found_where_two_pieces_that_are_read_meet(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for start in range((1 << 20) - 8, (1 << 20) + 1):
        file.write_bytes(b"x" * start + b"needle" + b"x" * 100)
        with pytest.raises(SpecError):
            require_no_passwords("trees/0000.tar", file, frozenset([b"needle", b"longer-needle"]))


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("http://u:p@h/x", ["u:p"]),
        ("deb [a=b] https://token@h/ x main", ["token"]),
        ("ssh://git@h/r and git+https://t@h", ["t"]),
        ("socks5h://u:p@h:1080", ["u:p"]),
        ("http://h/a@b:c http://h?u:p@x user:p@h //u:p@h", []),
        ('Proxy "http://u:@h";', ["u:"]),
        ("http://a:b@c@d/", ["a:b@c"]),
        ("http://u:p@h http://v:q@i", ["u:p", "v:q"]),
    ],
)
def test_what_counts_as_one(text: str, secrets: list[str]) -> None:
    assert credentials_in(text) == secrets
    stripped = without_credentials_in(text)
    assert credentials_in(stripped) == []
    assert stripped == text if not secrets else all(f"/{s}@" not in stripped for s in secrets)


WORD = st.text(
    st.characters(categories=["L", "N"], include_characters="._-%~!$&*+=;@"), max_size=20
)


@given(WORD, WORD, st.sampled_from(["http", "https", "ftp", "mirror+http", "socks5"]), WORD)
def test_no_user_s_password_is_left_in_a_url(
    user: str, password: str, scheme: str, around: str
) -> None:
    text = f"{around} {scheme}://{user}:{password}@host.test/path {around}"
    assert without_credentials_in(text) == f"{around} {scheme}://host.test/path {around}"
