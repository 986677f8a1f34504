"""Which hosts an installer reaches while it runs here: those that its answers send it to.

Sources: debian-installer's choose-mirror and apt-setup, and Ubuntu's installer, for the hosts they
take where the answers name none.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from imagekit.errors import SpecError
from imagekit.host.apt_sources import canonical_archive
from imagekit.spec.install import Iso, Netboot
from imagekit.spec.model import Spec
from imagekit.vm.gate import Endpoint

PORTS = {"http": 80, "https": 443, "ftp": 21}
SECURITY = {"debian": "security.debian.org", "ubuntu": "security.ubuntu.com"}
"""The archive of security updates that an installer takes by itself."""
_URL = re.compile(r"\b(?:https?|ftp)://[^\s,\"']+")


def reach_of(spec: Spec, install: Iso | Netboot) -> tuple[Endpoint, ...]:
    """The mirrors and the proxy of ``spec``, URLs among the arguments, and ``install.reach``.

    A mirror that is not named is the installer's own choice. Raises SpecError for a URL without a
    host or with a wrong port.
    """
    found = []
    for name, url in (
        ("os.mirror", spec.os.mirror),
        ("os.security_mirror", spec.os.security_mirror),
        ("os.proxy", spec.os.proxy),
        *(("install.args", url) for url in _URL.findall(install.args)),
    ):
        if url and url.partition(":")[0] in PORTS:
            found.append(_endpoint(url, name))
    if install.answers != "kickstart":
        found.append(Endpoint(SECURITY[spec.os.distribution], 80))
        if not spec.os.mirror:
            archive = canonical_archive(spec.os.distribution, spec.os.suite).mirror
            found.append(_endpoint(str(archive), "os.mirror"))
    for item in install.reach:
        host, _, port = item.rpartition(":")
        found.append(Endpoint(host.strip("[]"), int(port)))
    return tuple(sorted(set(found)))


def _endpoint(url: str, where: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
    except ValueError as error:
        raise SpecError(f"{url} is no URL: {error}", where=where) from None
    if not parts.hostname:
        raise SpecError(f"{url} names no host that an installer can reach", where=where)
    return Endpoint(parts.hostname, port)
