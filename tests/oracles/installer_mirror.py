"""A mirror for Debian's installer, on loopback: what the host's mirror has, and the udebs it lacks.

Release is signed by a key made here, which goes into the installer's initrd for its own packages;
InRelease is Debian's, so that the base system is verified by Debian's keys.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import lzma
import re
import shutil
import subprocess
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from oracles.debian_mirror import DebianMirror, Paragraph, paragraph
from oracles.tiny_installer import pack
from oracles.udebs import of_debs, of_kernel

INDEX = "main/debian-installer/binary-amd64/Packages"
# The file that net-retriever and bootstrap-base verify with; the other is Debian's own.
KEYRING = "usr/share/keyrings/archive.gpg"
DEBIANS = "usr/share/keyrings/debian-archive-keyring.pgp"


@dataclass(frozen=True)
class Installer:
    """Debian's installer as files: kernel, initrd with our key, and the root of its mirror."""

    kernel: Path
    initrd: Path
    root: Path
    release: str


def installer(suite: str, package: str, target: Path) -> Installer:
    """Make the installer of ``package`` (debian-installer-13-netboot-amd64) in ``target``.

    Raises LookupError with the name of what the mirror lacks.
    """
    mirror = DebianMirror(suite)
    scratch = target / "scratch"
    scratch.mkdir(parents=True)
    subprocess.run(
        ["dpkg-deb", "-x", mirror.fetch(mirror.deb(package)), scratch / "images"], check=True
    )
    (images,) = scratch.glob("images/usr/lib/debian-installer/images/*/amd64/text/*/amd64")
    initrd = (images / "initrd.gz").read_bytes()
    release = kernel_of(initrd)
    root = target / "mirror"
    pool = root / "pool/udebs"
    pool.mkdir(parents=True)
    made = [*of_debs(mirror, pool, scratch), *of_kernel(mirror, release, pool, scratch)]
    _index(mirror, root, made)
    keyring = _signed(root / "dists" / suite, scratch)
    overlay = scratch / "overlay"
    (overlay / KEYRING).parent.mkdir(parents=True)
    (overlay / KEYRING).write_bytes(_member(initrd, DEBIANS) + keyring.read_bytes())
    padded = initrd + bytes(-len(initrd) % 4)
    (target / "initrd").write_bytes(padded + gzip.compress(pack(overlay), 1))
    shutil.copyfile(images / "linux", target / "linux")
    shutil.rmtree(scratch)
    return Installer(target / "linux", target / "initrd", root, release)


def kernel_of(initrd: bytes) -> str:
    """The kernel whose modules an initrd has."""
    listed = subprocess.run(
        ["cpio", "-t", "--quiet"], input=gzip.decompress(initrd), capture_output=True, check=True
    )
    (found,) = set(re.findall(rb"lib/modules/([^/\s]+)/", listed.stdout))
    return bytes(found).decode()


def _member(initrd: bytes, name: str) -> bytes:
    found = subprocess.run(
        ["cpio", "-i", "--quiet", "--to-stdout", name],
        input=gzip.decompress(initrd),
        capture_output=True,
        check=True,
    )
    assert found.stdout, f"{name} is not in the initrd"
    return found.stdout


def _index(mirror: DebianMirror, root: Path, made: list[Path]) -> None:
    """Write Packages of the installer: what is made here, and what the mirror can give."""
    fields = [_described(path, root) for path in made]
    names = {one["Package"] for one in fields}
    # Modules of other kernels are not for this installer.
    there = [
        udeb
        for udeb in mirror.udebs()
        if udeb["Package"] not in names and "Kernel-Version" not in udeb and mirror.has(udeb)
    ]
    text = "\n".join(
        "".join(f"{name}: {value}\n" for name, value in one.items()) for one in [*fields, *there]
    ).encode()
    index = root / "dists" / mirror.suite / INDEX
    index.parent.mkdir(parents=True)
    index.with_suffix(".gz").write_bytes(gzip.compress(text, mtime=0))
    index.with_suffix(".xz").write_bytes(lzma.compress(text, preset=1))
    release = _replaced(mirror.read(f"dists/{mirror.suite}/Release").decode(), index)
    (root / "dists" / mirror.suite / "Release").write_text(release)


def _described(package: Path, root: Path) -> Paragraph:
    control = subprocess.run(
        ["dpkg-deb", "--field", package], capture_output=True, text=True, check=True
    )
    data = package.read_bytes()
    return paragraph(control.stdout) | {
        "Filename": str(package.relative_to(root)),
        "Size": str(len(data)),
        "SHA256": hashlib.sha256(data).hexdigest(),
    }


def _replaced(release: str, index: Path) -> str:
    """A Release file with the digests of the new index in place of the old."""
    kept = [line for line in release.splitlines() if f" {INDEX}" not in line]
    place = kept.index("SHA256:") + 1
    for path in (index.with_suffix(".gz"), index.with_suffix(".xz")):
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        kept.insert(place, f" {digest} {len(data)} {INDEX}{path.suffix}")
    return "\n".join(kept) + "\n"


def _signed(directory: Path, scratch: Path) -> Path:
    """Sign Release by a new key; the keyring with its public half."""
    home = scratch / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    subprocess.run(
        [*gpg, "--passphrase", "", "--quick-generate-key", "tests", "rsa2048", "sign", "never"],
        check=True,
        capture_output=True,
    )
    signature = directory / "Release.gpg"
    subprocess.run(
        [*gpg, "--detach-sign", "--armor", "-o", signature, directory / "Release"], check=True
    )
    keyring = scratch / "keyring.gpg"
    subprocess.run([*gpg, "--export", "-o", keyring], check=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    return keyring


@contextmanager
def served(made: Installer, suite: str) -> Iterator[int]:
    """The mirror on a port of loopback: its own files first, then those of the host's mirror."""
    mirror = DebianMirror(suite)

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path).removeprefix("/debian/")
            own = made.root / path
            try:
                if ".." in path:
                    raise FileNotFoundError
                data = own.read_bytes() if own.is_file() else mirror.kept_by_path(path)
            except (OSError, urllib.error.HTTPError):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()
