"""What a spec may ask for that makes its writer root on this host, or gets files out of it.

With ``--untrusted`` all of it is refused. What is left makes a guest of signed packages, or of an
installer's in a virtual machine; it is not made harmless by that: docs/threat-model.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from imagekit.errors import SpecError
from imagekit.spec.install import Debootstrap, DiskimageBuilder, Install, Iso, Netboot
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Spec

Power = tuple[tuple[str | int, ...], str]
"""Where a field is in the spec, and what its writer gets by it."""
INTO_GUEST = "puts a file of this host into the guest"
DOM0 = "is run by dom0 as root"
REACHES = "lets the installer reach this host or its network"
_HOST = re.compile(r"://(?:[^/@\s]*@)?(\[[^\]\s]*\]|[^/:\s]+)")


def check_untrusted(file: SpecFile) -> None:
    """Raise SpecError naming every field of ``file`` that only a trusted spec may have."""
    found = [f"{file.where(*loc)}: {why}" for loc, why in _powers(file.spec)]
    if found:
        raise SpecError(
            "a spec of somebody who is not trusted may not have:\n  " + "\n  ".join(found),
            hint="take these out; or read them as you would read a shell script from a stranger, "
            "and build without --untrusted",
        )


def check_untrusted_lock(lock: object) -> None:
    """Raise SpecError if there is a ``lock``: its digests stand in place of signatures."""
    if lock is not None:
        raise SpecError(
            "a lock vouches for packages, in place of the archive's signatures",
            where="--untrusted, --locked",
            hint="build without the lock",
        )


def _powers(spec: Spec) -> Iterator[Power]:
    for index, _script in enumerate(spec.scripts):
        yield ("scripts", index), "is run as root while the image is built"
    for index, item in enumerate(spec.files):
        if item.source is not None:
            yield ("files", index, "source"), INTO_GUEST
    for index, nic in enumerate(spec.nics):
        if nic.script is not None:
            yield ("nics", index, "script"), DOM0
    for toolstack, settings in spec.machine.raw.items():
        if settings:
            yield ("machine", "raw", toolstack), "is given to the toolstack in dom0 as it is"
    if spec.os.keyring is not None:
        yield ("os", "keyring"), "lets other keys vouch for packages, which run programs as root"
    if spec.identity.root_password and spec.identity.root_password.file:
        yield ("identity", "root_password", "file"), INTO_GUEST
    for index, user in enumerate(spec.identity.users):
        if user.password and user.password.file:
            yield ("identity", "users", index, "password", "file"), INTO_GUEST
    yield from _of_install(spec.install)
    if isinstance(spec.install, Iso | Netboot):
        yield from _near_hosts(spec, spec.install)


def _near_hosts(spec: Spec, install: Iso | Netboot) -> Iterator[Power]:
    """Addresses that the installer would be let through to, and that are no public server's.

    This host has one in QEMU's network too: the guest's gateway, or a private one.
    """
    gateways = {
        ipaddress.ip_address(gateway)
        for nic in spec.nics
        if not isinstance(nic.network, str)
        for gateway in nic.network.gateways
    }
    named: list[tuple[tuple[str | int, ...], str]] = [(("install", "args"), install.args)]
    for field in ("mirror", "security_mirror", "proxy"):
        named.append((("os", field), getattr(spec.os, field) or ""))
    for loc, text in named:
        for host in _HOST.findall(text):
            try:
                address = ipaddress.ip_address(host.strip("[]"))
            except ValueError:
                continue
            if not address.is_global or address in gateways:
                yield loc, REACHES
                break


def _of_install(install: Install) -> Iterator[Power]:
    named = set(install.inputs())
    for field, value in install:
        if isinstance(value, str) and value in named:
            yield ("install", field), INTO_GUEST
    if isinstance(install, Debootstrap | DiskimageBuilder) and install.element_path:
        yield ("install", "element_path"), "has elements, which are run as root on this host"
    if isinstance(install, Debootstrap) and install.modules:
        yield ("install", "modules"), INTO_GUEST
    if isinstance(install, Debootstrap) and install.element_environment:
        yield ("install", "element_environment"), "tells elements, which are root, what to do"
    if isinstance(install, DiskimageBuilder) and install.environment:
        yield ("install", "environment"), "tells elements, which are root, what to do"
    if isinstance(install, Iso | Netboot) and install.template:
        yield ("install", "template"), INTO_GUEST
    if isinstance(install, Iso | Netboot) and install.reach:
        yield ("install", "reach"), REACHES
