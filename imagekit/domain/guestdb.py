"""The guest database, ``guests.yaml``: which guest runs on which host, with which MAC and OS.

One file from which per-host lists, specs and the netboot tree come, as Quattor sites keep XEN_DB
(a list of guests per host) and XEN_GUESTS (one host's own list). ::

    hosts: [xenhost1.example.org, xenhost2.example.org]
    guests:
      - name: web1.example.org
        mac: 00:16:3e:10:20:30
        host: xenhost1.example.org
        hardware: {memory_mib: 1024, vcpus: 2, disk_mib: 10240}
        os: debian-12
        method: netboot
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from imagekit.errors import SpecError
from imagekit.host.addresses import is_server_address
from imagekit.host.exclusive import exclusive
from imagekit.host.outfile import replacing
from imagekit.spec.base import Model
from imagekit.spec.faults import faults
from imagekit.spec.values import Mac
from imagekit.spec.yamltext import yaml_reader

MAX_FILE = 16 << 20
MAX_NODES = 1_000_000
FQDN = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9-]{1,63})*$"


def _ip(value: object) -> str:
    if value not in ("", None) and not is_server_address(str(value)):
        raise ValueError(f"{value!r} is not an IPv4 address")
    return str(value or "")


Name = Annotated[str, Field(pattern=FQDN, max_length=253)]
Address = Annotated[str, BeforeValidator(_ip)]


class Hardware(Model):
    """What a guest's virtual hardware has; sizes in MiB."""

    memory_mib: int = Field(1024, ge=16, le=1 << 24)
    vcpus: int = Field(1, ge=1, le=512)
    disk_mib: int = Field(10240, ge=1, le=1 << 31)


class Guest(Model):
    """One guest. ``host`` empty: not assigned yet. ``spec`` names the spec it is built from."""

    name: Name
    mac: Mac
    host: str = ""
    ip: Address = ""
    hardware: Hardware = Hardware()
    os: str = Field("debian-12", pattern=r"^[a-z][a-z0-9._-]{0,63}$")
    method: str = Field("netboot", pattern=r"^[a-z][a-z-]{0,31}$")
    spec: str = ""


class GuestDb(Model):
    """A checked database: no name, MAC or address twice, and no host that is not listed."""

    hosts: list[Name] = Field(default_factory=list)
    guests: list[Guest] = Field(default_factory=list)

    @model_validator(mode="after")
    def _unique(self) -> GuestDb:
        owners = {guest.name: guest.host for guest in self.guests}
        for guest in self.guests:
            if owners[guest.name] != guest.host:
                both = sorted({g.host for g in self.guests if g.name == guest.name})
                raise ValueError(f"guest {guest.name} is on two hosts: {', '.join(both)}")
        for what in ("name", "mac", "ip"):
            counts = Counter(str(getattr(guest, what)) for guest in self.guests)
            for value, count in counts.items():
                if value and count > 1:
                    names = [g.name for g in self.guests if getattr(g, what) == value]
                    raise ValueError(f"the {what} {value} is given {count} times: {names}")
        hosts = set(self.hosts)
        if len(hosts) != len(self.hosts):
            raise ValueError("a host is listed twice")
        for guest in self.guests:
            if guest.host and hosts and guest.host not in hosts:
                raise ValueError(
                    f"guest {guest.name} is on {guest.host}, which is not a listed host"
                )
        return self

    def get(self, name: str) -> Guest:
        """The guest called ``name``, whole or its first label; raises SpecError."""
        exact = [guest for guest in self.guests if guest.name == name]
        found = exact or [guest for guest in self.guests if guest.name.split(".")[0] == name]
        if len(found) != 1:
            said = "there is no guest" if not found else "there are several guests"
            raise SpecError(f"{said} {name!r}", hint="imagekit guests list shows them")
        return found[0]

    def by_host(self) -> dict[str, list[Guest]]:
        """Guests per host, hosts without guests too; guests without a host under ""."""
        lists: dict[str, list[Guest]] = {host: [] for host in self.hosts}
        for guest in self.guests:
            lists.setdefault(guest.host, []).append(guest)
        return lists

    def xen_db(self) -> str:
        """The host lists in Quattor's language, as its templates read them (XEN_DB)."""
        lines = ["variable XEN_DB = nlist("]
        for host, guests in self.by_host().items():
            if host and guests:
                names = ", ".join(f'"{guest.name}"' for guest in guests)
                lines.append(f'    "{host}", list({names}),')
        return "\n".join([*lines, ");", ""])


def load(path: Path) -> GuestDb:
    """Read and check a database; raises SpecError naming file and field."""
    return _check(_read(path), path)


def assign(path: Path, name: str, host: str) -> Guest:
    """Put a guest on ``host`` ("" takes it off) and write the file, comments and order kept.

    The file is replaced whole. Raises SpecError when the result would not be sound.
    """
    with exclusive(path.parent):
        raw = _read(path)
        before = _check(raw, path)
        found = before.get(name)
        if host and before.hosts and host not in before.hosts:
            raise SpecError(
                f"{host!r} is not a listed host", hint=f"listed are: {', '.join(before.hosts)}"
            )
        entry = next(item for item in raw["guests"] if item["name"] == found.name)
        edited = _edited(path.read_bytes().decode("utf-8"), entry, host)
        entry["host"] = host
        after = _check(raw, path)
        if not _says(edited, after):
            stream = io.BytesIO()
            _yaml().dump(raw, stream)
            edited = stream.getvalue().decode("utf-8")
        _write(path, edited.encode())
    return after.get(found.name)


def _write(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode & 0o777
    with replacing(path, overwrite=True) as part, part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())


def _edited(text: str, entry: Any, host: str) -> str:
    """``text`` with the host of one guest changed where ruamel.yaml saw it, all else as it is.

    Dumping the whole file would indent it anew.
    """
    lines = text.splitlines(keepends=True)
    word = host or '""'
    if "host" in entry:
        line, column = entry.lc.value("host")
        rest = re.sub(r"""^("[^"]*"|'[^']*'|[^\s,}\]#]*)""", lambda _: word, lines[line][column:])
    else:
        line, column = entry.lc.key("name")
        between = ", " if entry.fa.flow_style() else "\n" + " " * column
        rest = f"host: {word}{between}{lines[line][column:]}"
    lines[line] = lines[line][:column] + rest
    return "".join(lines)


def _says(text: str, wanted: GuestDb) -> bool:
    try:
        return GuestDb.model_validate(_yaml().load(text)) == wanted
    except (YAMLError, ValueError):
        return False


def _yaml() -> YAML:
    yaml = yaml_reader("rt", max_nodes=MAX_NODES)
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise SpecError("the file is larger than 16 MiB", where=str(path))
        raw = _yaml().load(data.decode("utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise SpecError("it is not UTF-8 text", where=str(path)) from error
    except (YAMLError, RecursionError, ValueError) as error:
        said = re.sub(r"\s+", " ", str(error))[:300]
        raise SpecError(f"not YAML: {said}", where=str(path)) from error
    if not isinstance(raw, dict):
        raise SpecError("a mapping with hosts and guests is wanted", where=str(path))
    return raw


def _check(raw: Any, path: Path) -> GuestDb:
    try:
        return GuestDb.model_validate(raw)
    except ValidationError as error:
        first = faults(error, GuestDb)[0]
        where = f"{path}{_line(raw, first.loc)}"
        text = f"{first.field}: {first.what}" if first.field else first.what
        raise SpecError(text, where=where, hint=first.hint) from None


def _line(raw: Any, place: tuple[int | str, ...]) -> str:
    """ ":LINE" of the deepest mapping on the way to ``place``, as ruamel.yaml noted it."""
    line = ""
    for part in place:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            break
        mark = getattr(raw, "lc", None)
        if mark is not None and mark.line is not None:
            line = f":{mark.line + 1}"
    return line
