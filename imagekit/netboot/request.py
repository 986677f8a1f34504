"""A request to publish one guest, in YAML: what ``imagekit netboot publish`` reads.

::

    name: web1
    mac: 00:16:3e:10:20:30
    installer: {package: debian-installer-12-netboot-amd64}
    args: auto=true priority=critical url={answers} console=hvc0
    answers: web1.preseed.cfg

``installer`` is one of: package; deb + sha256; iso + kernel + initrd + sha256; mirror + suite +
arch; kernel + initrd (files, with kernel_sha256 and initrd_sha256 if known). In ``args``,
``{name}``, ``{mac}`` and ``{ip}`` stand for the guest's own, so that many guests of a guest
database can share one request that names none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from ruamel.yaml.error import YAMLError

from imagekit.domain import guestdb
from imagekit.domain.guestdb import Address, Guest
from imagekit.errors import SpecError
from imagekit.netboot import sources
from imagekit.netboot.netguest import NetbootGuest
from imagekit.spec.base import Model
from imagekit.spec.places import refused_in
from imagekit.spec.values import Mac, NamedPath
from imagekit.spec.yamltext import MAX_NODES, yaml_reader

MAX_REQUEST = 1 << 20


class Package(Model):
    """A Debian package that apt fetches and verifies."""

    package: str


class Deb(Model):
    """A package file."""

    deb: NamedPath
    sha256: str


class Iso(Model):
    """Two files in an ISO image."""

    iso: NamedPath
    sha256: str
    kernel: str = "/install.amd/vmlinuz"
    initrd: str = "/install.amd/initrd.gz"


class Mirror(Model):
    """An installer on a signed Debian mirror."""

    mirror: str
    suite: str
    arch: str = "amd64"
    keyring: NamedPath = sources.DEBIAN_KEYRING


class Files(Model):
    """Two files on this host."""

    kernel: NamedPath
    initrd: NamedPath | None = None
    kernel_sha256: str = ""
    initrd_sha256: str = ""


class Request(Model):
    """One guest to publish."""

    name: str
    mac: Mac
    installer: Package | Deb | Iso | Mirror | Files
    ip: Address = ""
    args: str = ""
    answers: NamedPath | None = None
    answers_name: str = "preseed.cfg"
    secret: bool = True
    mode: Literal["install", "local"] | None = None


def load(path: Path, guest: Guest | None = None) -> Request:
    """Read a request; raises SpecError. Relative paths in it start at its folder.

    ``guest`` of a guest database gives name, MAC and address; the file may not contradict it.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_REQUEST + 1)
        if len(data) > MAX_REQUEST:
            raise SpecError("the file is larger than 1 MiB", where=str(path))
        raw = yaml_reader().load(data.decode("utf-8"))
        if guest is not None and isinstance(raw, dict):
            raw = _with_guest(raw, guest, path)
        return Request.model_validate(raw)
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        raise refused_in(error, Request, path, data.decode(), nodes=MAX_NODES) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"not YAML: {str(error)[:300]}", where=str(path)) from error


def _with_guest(raw: dict[str, object], guest: Guest, path: Path) -> dict[str, object]:
    known = {"name": guest.name, "mac": guest.mac, "ip": guest.ip}
    for key, value in known.items():
        if key in raw and str(raw[key]).lower() != value.lower():
            raise SpecError(
                f"{key} is {raw[key]} here and {value or 'none'} in the guest database",
                where=str(path),
                hint=f"leave {key} out here",
            )
    return {**raw, **known}


def of_database(path: Path, host: str = "") -> list[tuple[Path, Request]]:
    """The requests of all guests in a database whose method is netboot, and their files.

    ``host`` takes the guests of one host only. Each guest's ``spec`` is its request, relative to
    the database's folder.
    """
    found = []
    for guest in guestdb.load(path).guests:
        if guest.method != "netboot" or (host and guest.host != host):
            continue
        if not guest.spec:
            raise SpecError(f"{guest.name} has no spec", where=str(path))
        file = path.parent / guest.spec
        found.append((file, load(file, guest)))
    if not found:
        raise SpecError("no guest in it is to be netbooted", where=str(path))
    return found


def prepare(request: Request, base: Path, workdir: Path) -> NetbootGuest:
    """Bring the installer here (into ``workdir``, which exists) and make the guest to publish."""
    files = _files(request.installer, base, workdir)
    args = request.args
    for key in ("name", "mac", "ip"):
        args = args.replace("{" + key + "}", getattr(request, key))
    answers = None
    if request.answers is not None:
        try:
            answers = (base / request.answers).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            where = str(base / request.answers)
            raise SpecError(f"cannot read the answers: {error}", where=where) from error
    return NetbootGuest(
        name=request.name,
        mac=request.mac,
        kernel=files.kernel,
        initrd=files.initrd,
        kernel_sha256=files.kernel_sha256,
        initrd_sha256=files.initrd_sha256,
        args=args,
        ip=request.ip,
        answers=answers,
        answers_name=request.answers_name,
        secret=request.secret,
        mode=request.mode,
    )


def _files(installer: Package | Deb | Iso | Mirror | Files, base: Path, workdir: Path) -> Files:
    if isinstance(installer, Files):
        initrd = base / installer.initrd if installer.initrd else None
        return installer.model_copy(update={"kernel": base / installer.kernel, "initrd": initrd})
    if isinstance(installer, Package):
        found = sources.from_package(installer.package, workdir)
    elif isinstance(installer, Deb):
        found = sources.from_deb(base / installer.deb, workdir, sha256=installer.sha256)
    elif isinstance(installer, Iso):
        found = sources.from_iso(
            base / installer.iso,
            installer.kernel,
            installer.initrd,
            workdir,
            sha256=installer.sha256,
        )
    else:
        found = sources.from_mirror(
            *(installer.mirror, installer.suite, installer.arch, workdir),
            keyring=base / installer.keyring,
        )
    return Files(
        kernel=found.kernel,
        initrd=found.initrd,
        kernel_sha256=found.kernel_sha256,
        initrd_sha256=found.initrd_sha256,
    )
