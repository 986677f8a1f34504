"""What ``imagekit config --import`` and ``--upload`` do: send a build to where it runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.errors import SpecError
from imagekit.host.outfile import os_errors
from imagekit.toolstacks.glance import emitter as glance
from imagekit.toolstacks.glance import upload as glance_upload
from imagekit.toolstacks.xapi import importing as xapi_import
from imagekit.toolstacks.xapi.session import Pool
from imagekit.toolstacks.xapi.xva import write_xva

PASSWORD_VARIABLE = "IMAGEKIT_XAPI_PASSWORD"  # noqa: S105 - a variable's name
_MAX_PASSWORD_BYTES = 4096


def xapi_pool(
    url: str,
    *,
    username: str = "root",
    password_file: Path | None = None,
    cafile: Path | None = None,
    insecure: bool = False,
) -> Pool:
    """How to reach XAPI; the password is the first line of ``password_file``, or
    IMAGEKIT_XAPI_PASSWORD, never an argument that others could see. Raises SpecError.
    """
    if password_file is not None:
        password = _first_line(password_file)
    else:
        password = os.environ.get(PASSWORD_VARIABLE, "")
    if not password:
        raise SpecError(
            "there is no password for XAPI",
            where="--xapi-password-file",
            hint=f"name a file that holds it, or set {PASSWORD_VARIABLE}",
        )
    return Pool(url, username, password, cafile, insecure)


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_PASSWORD_BYTES).split(b"\n", 1)[0].rstrip(b"\r").decode()
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError:
        raise SpecError("the password is not UTF-8 text", where=str(path)) from None


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


def import_domain(
    toolstack: str,
    domain: Domain,
    facts: BuildFacts,
    pool: Pool,
    *,
    sr: str | None = None,
    networks: Sequence[str] = (),
) -> list[str]:
    """Import by the toolstack ``xapi`` (piece by piece) or ``xva`` (one file, made and removed
    where TMPDIR points); the UUIDs of the VMs. Raises as :mod:`imagekit.toolstacks.xapi.importing`.
    """
    if toolstack == "xapi":
        chosen = network_choices(networks)
        return [xapi_import.import_into(pool, domain, facts, sr=sr, networks=chosen)]
    if toolstack != "xva":
        raise SpecError(
            f"{toolstack} imports nothing", where="--import", hint="--toolstack xapi or xva"
        )
    if networks:
        raise SpecError(
            "an XVA's networks are found by their bridges",
            where="--network",
            hint="--toolstack xapi takes others",
        )
    with tempfile.NamedTemporaryFile(prefix=".imagekit-", suffix=".xva") as file:
        with os_errors(Path(file.name)):
            write_xva(domain, facts, file.file)
            file.flush()
        return xapi_import.import_xva(pool, Path(file.name), sr=sr)


def upload_images(
    domain: Domain, facts: BuildFacts, options: glance.Options, *, cloud: str | None = None
) -> dict[str, str]:
    """Upload to Glance; the ids by role. Raises as its ``upload`` does."""
    return glance_upload.upload(domain, facts, options, cloud=cloud)
