"""Where installers' kernels and initrds come from, each with its proof of origin.

- a Debian package (``debian-installer-12-netboot-amd64``), fetched by apt, which checks it
  against the archive's signatures, or a .deb file with a digest;
- a mirror: InRelease (signed) names the digest of the installer's SHA256SUMS, which names the
  digests of kernel and initrd;
- an ISO image with a digest.

Sources: DebianRepository/Format (Release files), the Debian installation guide ("Official images").
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from imagekit.disk.extents import opened
from imagekit.disk.isoread import read_iso
from imagekit.disk.settled import settled
from imagekit.errors import ImageError, SpecError, VerificationError
from imagekit.host import openpgp
from imagekit.host.program import confined, given
from imagekit.host.run import run
from imagekit.netboot.reading import unpack_installer
from imagekit.netboot.tree import file_digest
from imagekit.pypxeboot import http_fetch
from imagekit.pypxeboot.location import from_url
from imagekit.pypxeboot.transfer import Deadline, Receiver

MIB = 1 << 20
MAX_KERNEL = 64 * MIB
MAX_INITRD = 512 * MIB
MAX_INDEX = 16 * MIB
TRANSFER_SECONDS = 900.0
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Installer:
    """A kernel and initrd in a directory of ours, their digests, and where they are from."""

    kernel: Path
    initrd: Path
    kernel_sha256: str
    initrd_sha256: str
    origin: str


def _installer(kernel: Path, initrd: Path, origin: str) -> Installer:
    return Installer(kernel, initrd, file_digest(kernel), file_digest(initrd), origin)


def _checked(path: Path, sha256: str) -> None:
    digest = file_digest(path)
    if digest != sha256.lower():
        raise VerificationError(f"its SHA-256 is {digest}, not {sha256}", where=str(path))


def from_package(name: str, workdir: Path) -> Installer:
    """The installer in the Debian package ``name``, downloaded and verified by apt."""
    if not re.fullmatch("[a-z0-9][a-z0-9.+-]+", name):
        raise SpecError(f"{name!r} is no package name")
    download = workdir / "package"
    download.mkdir(parents=True)
    run(
        ["apt-get", "download", "--option=APT::Sandbox::User=root", name],
        cwd=download,
        timeout=TRANSFER_SECONDS,
        what=f"downloading the package {name}",
    )
    found = list(download.glob("*.deb"))
    if len(found) != 1:
        raise ImageError(f"apt brought {len(found)} files for {name}", where=str(download))
    return from_deb(found[0], workdir, sha256=file_digest(found[0]))


def from_deb(deb: Path, workdir: Path, *, sha256: str) -> Installer:
    """The installer in a .deb file whose SHA-256 is ``sha256``."""
    listing = workdir / "tree.tar"
    with settled(deb, workdir) as source, opened(source) as fd:
        _checked(source, sha256)
        argv = confined(["dpkg-deb", "--fsys-tarfile", given(fd)], readable=[fd])
        with listing.open("wb") as stream:
            run(argv, stdout=stream, timeout=300, pass_fds=[fd])
    kernel, initrd = workdir / "linux", workdir / "initrd.gz"
    try:
        missing = unpack_installer(listing, kernel, initrd)
    except ImageError as error:
        error.where = str(deb)
        raise
    finally:
        listing.unlink()
    if missing:
        raise ImageError(f"there is no {' and no '.join(missing)} in this package", where=str(deb))
    return _installer(kernel, initrd, f"{deb.name} sha256:{sha256}")


def from_iso(iso: Path, kernel: str, initrd: str, workdir: Path, *, sha256: str) -> Installer:
    """``kernel`` and ``initrd`` (absolute paths inside) of an ISO image with this SHA-256."""
    linux, ramdisk = workdir / "linux", workdir / "initrd.gz"
    if kernel == initrd:
        raise SpecError(f"{kernel} cannot be both kernel and initrd")
    for inside in (kernel, initrd):
        if not re.fullmatch(r"(/[A-Za-z0-9._+-]+)+", inside):
            raise SpecError(f"{inside!r} is no path inside an ISO image")
    # What was checked is what is read; a link inside the image is no file, and not followed.
    with settled(iso, workdir) as source:
        _checked(source, sha256)
        read_iso(source, {kernel: linux, initrd: ramdisk})
    return _installer(linux, ramdisk, f"{iso.name} sha256:{sha256}")


def from_mirror(
    base: str,
    suite: str,
    arch: str,
    workdir: Path,
    *,
    keyring: Path = DEBIAN_KEYRING,
    flavour: str = "netboot",
) -> Installer:
    """The installer on a Debian mirror, verified down from the archive's signature.

    ``base`` is the mirror's URL (what holds ``dists``). Raises VerificationError when a signature
    or digest does not match.
    """
    for word in (suite, arch, flavour):
        if not re.fullmatch("[a-z0-9][a-z0-9/-]*", word):
            raise SpecError(f"{word!r} cannot be part of a mirror's path")
    base = base.rstrip("/")
    release = _signed_text(f"{base}/dists/{suite}/InRelease", workdir, keyring)
    images = f"main/installer-{arch}/current/images"
    wanted = _digest_of(release, f"{images}/SHA256SUMS", "SHA256:")
    sums = _get(f"{base}/dists/{suite}/{images}/SHA256SUMS", MAX_INDEX).content()
    if hashlib.sha256(sums).hexdigest() != wanted:
        raise VerificationError("the installer's SHA256SUMS is not the one that was signed")
    lines = sums.decode("utf-8", "replace")
    folder = f"./{flavour}/debian-installer/{arch}"
    for name, limit in (("linux", MAX_KERNEL), ("initrd.gz", MAX_INITRD)):
        digest = _digest_of(lines, f"{folder}/{name}")
        url = f"{base}/dists/{suite}/{images}/{folder[2:]}/{name}"
        with (workdir / name).open("wb") as stream:
            received = _get(url, limit, stream.fileno())
        if received.sha256() != digest:
            (workdir / name).unlink()
            raise VerificationError(f"its SHA-256 is not the signed {digest}", where=url)
    return _installer(workdir / "linux", workdir / "initrd.gz", f"{base} {suite} {arch}")


def _get(url: str, limit: int, fd: int | None = None) -> Receiver:
    deadline = Deadline(TRANSFER_SECONDS)
    receiver = Receiver(url, limit, deadline, fd)
    host = from_url(url).host
    http_fetch.fetch(url, receiver, deadline, allowed=lambda name: name == host)
    return receiver


def _signed_text(url: str, workdir: Path, keyring: Path) -> str:
    """The text of a clear-signed file, only what the signature covers."""
    if not keyring.is_file():
        raise SpecError("no such keyring", where=str(keyring), hint="debian-archive-keyring has it")
    signed, plain = workdir / "InRelease", workdir / "Release"
    signed.write_bytes(_get(url, MAX_INDEX).content())
    plain.unlink(missing_ok=True)
    try:
        openpgp.verify(signed, keyring, plain=plain)
    except VerificationError as error:
        error.where = url
        raise
    return plain.read_text("utf-8", "replace")


def _digest_of(text: str, name: str, section: str = "") -> str:
    """The SHA-256 that ``text`` (a Release file's section, or sha256sum's lines) gives ``name``."""
    inside = not section
    for line in text.splitlines():
        if section and not line.startswith(" "):
            inside = line.strip() == section
            continue
        words = line.split()
        named = inside and len(words) >= 2 and words[-1] == name
        if named and re.fullmatch("[0-9a-f]{64}", words[0]):
            return words[0]
    raise VerificationError(f"no SHA-256 of {name} was signed")
