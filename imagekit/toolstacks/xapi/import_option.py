"""What ``imagekit config --import`` does: a guest into a pool, piece by piece or as one XVA."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.errors import SpecError
from imagekit.host.outfile import os_errors
from imagekit.toolstacks.declaration import Delivered, Import
from imagekit.toolstacks.secretfile import first_line
from imagekit.toolstacks.xapi.importing import import_into, import_xva
from imagekit.toolstacks.xapi.session import Pool
from imagekit.toolstacks.xapi.xva import write_xva

PASSWORD_VARIABLE = "IMAGEKIT_XAPI_PASSWORD"  # noqa: S105 - a variable's name


def pool(asked: Import) -> Pool:
    """How to reach XAPI; the password is the first line of the file, or IMAGEKIT_XAPI_PASSWORD,
    never an argument that others could see. Raises SpecError.
    """
    if asked.password_file is not None:
        password = first_line(asked.password_file)
    else:
        password = os.environ.get(PASSWORD_VARIABLE, "")
    if not password:
        raise SpecError(
            "there is no password for XAPI",
            where="--xapi-password-file",
            hint=f"name a file that holds it, or set {PASSWORD_VARIABLE}",
        )
    return Pool(asked.url, asked.username, password, asked.cafile, asked.insecure)


def network_choices(pairs: Sequence[str]) -> dict[str, str]:
    """``--network BRIDGE=NETWORK`` as a mapping; raises SpecError."""
    chosen: dict[str, str] = {}
    for pair in pairs:
        bridge, sign, network = pair.partition("=")
        if not (bridge and sign and network) or bridge in chosen:
            raise SpecError(
                f"{pair!r} does not say which network a bridge is",
                where="--network",
                hint="BRIDGE=UUID or BRIDGE=NAME, each bridge once",
            )
        chosen[bridge] = network
    return chosen


def import_domain(domain: Domain, facts: BuildFacts, _options: object, asked: Import) -> Delivered:
    """Import piece by piece; ``made`` is the UUID of the VM. Raises as
    :mod:`imagekit.toolstacks.xapi.importing`.
    """
    chosen = network_choices(asked.networks)
    return Delivered((import_into(pool(asked), domain, facts, sr=asked.sr, networks=chosen),))


def import_whole(domain: Domain, facts: BuildFacts, _options: object, asked: Import) -> Delivered:
    """Import one XVA, made and removed where TMPDIR points; ``made`` are the UUIDs of the VMs.

    Raises as :mod:`imagekit.toolstacks.xapi.importing`.
    """
    if asked.networks:
        raise SpecError(
            "an XVA's networks are found by their bridges",
            where="--network",
            hint="--toolstack xapi takes others",
        )
    target = pool(asked)
    with tempfile.NamedTemporaryFile(prefix=".imagekit-", suffix=".xva") as file:
        with os_errors(Path(file.name)):
            write_xva(domain, facts, file.file)
            file.flush()
        return Delivered(tuple(import_xva(target, Path(file.name), sr=asked.sr)))
