"""Installers from packages, ISO images and signed mirrors, made here with the real tools."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from imagekit.errors import (
    DownloadError,
    ImageError,
    ImagekitError,
    SpecError,
    VerificationError,
)
from imagekit.netboot import request, sources

pytestmark = pytest.mark.real
KERNEL = bytes(0x202) + b"HdrS" + bytes(3000)
INITRD = b"initrd" * 5000
IMAGES = "main/installer-amd64/current/images"
NETBOOT = "netboot/debian-installer/amd64"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check(found: sources.Installer) -> None:
    assert found.kernel.read_bytes() == KERNEL
    assert found.initrd.read_bytes() == INITRD
    assert (found.kernel_sha256, found.initrd_sha256) == (sha256(KERNEL), sha256(INITRD))


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for flavour, kernel in (("gtk", b"no"), ("text", KERNEL)):
        folder = tree / f"usr/lib/debian-installer/images/12/amd64/{flavour}/debian-installer/amd64"
        folder.mkdir(parents=True)
        (folder / "linux").write_bytes(kernel)
        (folder / "initrd.gz").write_bytes(INITRD)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    )
    made = tmp_path / "x.deb"
    subprocess.run(["dpkg-deb", "--build", tree, made], check=True, capture_output=True)
    return made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def test_package_file(deb: Path, work: Path) -> None:
    check(sources.from_deb(deb, work, sha256=sha256(deb.read_bytes())))
    assert {path.name for path in work.iterdir()} == {"linux", "initrd.gz"}


def test_package_with_another_digest_is_not_opened(deb: Path, work: Path) -> None:
    with pytest.raises(VerificationError):
        sources.from_deb(deb, work, sha256="0" * 64)
    assert list(work.iterdir()) == []


def test_package_without_an_installer_is_named(tmp_path: Path, work: Path) -> None:
    tree = tmp_path / "empty"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: y\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: y\n"
    )
    made = tmp_path / "y.deb"
    subprocess.run(["dpkg-deb", "--build", tree, made], check=True, capture_output=True)
    with pytest.raises(ImageError, match="no linux"):
        sources.from_deb(made, work, sha256=sha256(made.read_bytes()))


@pytest.mark.skipif(not shutil.which("xorriso"), reason="xorriso is not installed")
def test_iso_image(tmp_path: Path, work: Path) -> None:
    tree = tmp_path / "iso"
    (tree / "install.amd").mkdir(parents=True)
    (tree / "install.amd/vmlinuz").write_bytes(KERNEL)
    (tree / "install.amd/initrd.gz").write_bytes(INITRD)
    iso = tmp_path / "x.iso"
    words: list[str | Path] = ["xorriso", "-as", "mkisofs", "-quiet", "-r", "-o", iso, tree]
    subprocess.run(words, check=True, capture_output=True)
    digest = sha256(iso.read_bytes())
    paths = ("/install.amd/vmlinuz", "/install.amd/initrd.gz")
    check(sources.from_iso(iso, *paths, work, sha256=digest))
    with pytest.raises(VerificationError):
        sources.from_iso(iso, *paths, work, sha256="1" * 64)
    with pytest.raises(ImagekitError):
        sources.from_iso(iso, "/missing", paths[1], work, sha256=digest)
    with pytest.raises(SpecError):
        sources.from_iso(iso, "/../etc/passwd -x", paths[1], work, sha256=digest)


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


class Mirror:
    """A signed mirror on loopback; ``tamper`` changes files after they were signed."""

    def __init__(self, root: Path, gpg: Callable[..., None]) -> None:
        self.suite = root / "dists/bookworm"
        folder = self.suite / IMAGES
        (folder / NETBOOT).mkdir(parents=True)
        (folder / NETBOOT / "linux").write_bytes(KERNEL)
        (folder / NETBOOT / "initrd.gz").write_bytes(INITRD)
        sums = "".join(
            f"{sha256(data)}  ./{NETBOOT}/{name}\n"
            for name, data in (("linux", KERNEL), ("initrd.gz", INITRD))
        ).encode()
        (folder / "SHA256SUMS").write_bytes(sums)
        release = root / "Release"
        release.write_text(
            f"Suite: bookworm\nMD5Sum:\n {'0' * 64} 1 {IMAGES}/SHA256SUMS\n"
            f"SHA256:\n {sha256(sums)} {len(sums)} {IMAGES}/SHA256SUMS\n"
        )
        gpg("--clearsign", "--output", self.suite / "InRelease", release)
        handler = partial(_Silent, directory=str(root))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    with tempfile.TemporaryDirectory(prefix="imagekit-gpg-") as home:
        env = {"PATH": os.environ["PATH"], "GNUPGHOME": home}

        def gpg(*words: object) -> None:
            argv = ["gpg", "--batch", "--yes", "--passphrase", "", *map(str, words)]
            subprocess.run(argv, check=True, capture_output=True, env=env)

        gpg("--quick-gen-key", "Test <t@example.org>", "ed25519", "sign", "never")
        keyring = Path(home) / "keyring.gpg"
        gpg("--export", "--output", keyring)
        yield gpg, keyring
        subprocess.run(["gpgconf", "--kill", "all"], env=env, check=False, capture_output=True)


Keys = tuple[Callable[..., None], Path]
"""gpg with a key of its own, and the keyring that has it."""


@pytest.fixture
def mirror(tmp_path: Path, keys: Keys) -> Iterator[Mirror]:
    made = Mirror(tmp_path / "mirror", keys[0])
    yield made
    made.server.shutdown()
    made.server.server_close()


needs_gpg = pytest.mark.skipif(
    not (shutil.which("gpg") and shutil.which("gpgv")), reason="GnuPG is not installed"
)


@needs_gpg
def test_mirror_is_verified_from_its_signature_down(mirror: Mirror, keys: Keys, work: Path) -> None:
    check(sources.from_mirror(mirror.url, "bookworm", "amd64", work, keyring=keys[1]))


@needs_gpg
@pytest.mark.parametrize("name", ["InRelease", f"{IMAGES}/SHA256SUMS", f"{IMAGES}/{NETBOOT}/linux"])
def test_any_changed_byte_on_the_mirror_is_noticed(
    mirror: Mirror, keys: Keys, work: Path, name: str
) -> None:
    path = mirror.suite / name
    data = bytearray(path.read_bytes())
    position = data.index(b"bookworm") if name == "InRelease" else len(data) // 2
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError):
        sources.from_mirror(mirror.url, "bookworm", "amd64", work, keyring=keys[1])
    assert not (work / "linux").exists()


@needs_gpg
def test_text_outside_the_signature_is_not_believed(mirror: Mirror, keys: Keys, work: Path) -> None:
    evil = KERNEL + b"evil"
    folder = mirror.suite / IMAGES
    (folder / NETBOOT / "linux").write_bytes(evil)
    sums = (
        (folder / "SHA256SUMS").read_bytes().replace(sha256(KERNEL).encode(), sha256(evil).encode())
    )
    (folder / "SHA256SUMS").write_bytes(sums)
    path = mirror.suite / "InRelease"
    signed = path.read_text()
    lie = f"SHA256:\n {sha256(sums)} {len(sums)} {IMAGES}/SHA256SUMS\n\n"
    for forged in (lie + signed, signed + lie):
        path.write_text(forged)
        with pytest.raises(VerificationError):
            sources.from_mirror(mirror.url, "bookworm", "amd64", work, keyring=keys[1])


@needs_gpg
def test_key_of_a_stranger_and_missing_files_are_errors(mirror: Mirror, work: Path) -> None:
    stranger = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if stranger.exists():
        with pytest.raises(VerificationError, match="signature"):
            sources.from_mirror(mirror.url, "bookworm", "amd64", work, keyring=stranger)
    with pytest.raises(SpecError):
        sources.from_mirror(mirror.url, "bookworm", "amd64", work, keyring=work / "none")
    with pytest.raises((DownloadError, VerificationError)):
        sources.from_mirror(mirror.url, "trixie", "amd64", work)
    with pytest.raises(SpecError):
        sources.from_mirror(mirror.url, "../x", "amd64", work)


def test_request_names_its_installer_in_one_of_five_ways(
    deb: Path, work: Path, tmp_path: Path
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        "name: web1\nmac: 00:16:3e:10:20:30\n"
        f"installer: {{deb: x.deb, sha256: {sha256(deb.read_bytes())}}}\n"
        "args: url={answers}\nanswers: a.cfg\n"
    )
    (tmp_path / "a.cfg").write_text("answers")
    guest = request.prepare(request.load(path), tmp_path, work)
    assert guest.kernel.read_bytes() == KERNEL
    assert guest.answers == "answers"
    assert guest.kernel_sha256 == sha256(KERNEL)
    for wrong in ("installer: {deb: x}", "installer: 3", "nonsense: 1", "mac: x", "answers: [1]"):
        path.write_text(f"name: a\nmac: 00:16:3e:10:20:30\ninstaller: {{package: p}}\n{wrong}\n")
        with pytest.raises(SpecError):
            request.load(path)
