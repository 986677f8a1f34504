"""What one run of pypxeboot shall do, from its arguments and a profile in a TOML file.

libvirt can hand over one argument at most, so everything that can be an argument can stand in a
profile: ``--profile=NAME`` reads the table ``[NAME]`` of /etc/imagekit/pypxeboot.toml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from uuid import UUID

from imagekit.errors import SpecError
from imagekit.host.addresses import is_server_address

PROFILE_FILE = Path("/etc/imagekit/pypxeboot.toml")
MAX_PROFILE_FILE = 1 << 20
MIB = 1 << 20
NOBODY = "65534"
DHCP_MODES = ("request", "offer", "none")
LOADERS = ("auto", "pxelinux", "ipxe")


@dataclass(frozen=True)
class Settings:
    """Everything a profile can say; the names are those of the options, with ``_`` for ``-``.

    Sizes are in MiB, ``timeout`` in seconds. ``dhcp`` is request (take a lease), offer (stop after
    the offer) or none. ``loader`` says which kind of config the server gives.
    """

    mac: str = ""
    interface: str = ""
    uuid: str = ""
    ip: str = ""
    next_server: str = ""
    prefix: str = ""
    config: str = ""
    label: str = ""
    http: str = ""
    dhcp: str = "request"
    loader: str = "auto"
    user_class: str = ""
    dhcp_server: tuple[str, ...] = ()
    allow_host: tuple[str, ...] = ()
    ca_file: str = ""
    kernel_sha256: str = ""
    initrd_sha256: str = ""
    kernel_limit: int = 64
    initrd_limit: int = 512
    timeout: int = 300
    runas: str = ""
    pygrub: str = ""

    @property
    def mac_bytes(self) -> bytes:
        """The guest's MAC, six bytes."""
        return mac_to_bytes(self.mac)

    @property
    def uuid_value(self) -> UUID | None:
        """The guest's UUID, if it was given."""
        return UUID(self.uuid) if self.uuid else None


def mac_to_bytes(text: str) -> bytes:
    """Six bytes of ``aa:bb:cc:dd:ee:ff`` (or with dashes); raises SpecError, also for a group."""
    if not re.fullmatch(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}", text, re.IGNORECASE | re.ASCII):
        raise SpecError(
            f"{text[:40]!r} is not a MAC address" if text else "the guest's MAC is not known",
            hint='in xl: bootloader_args = ["--mac=00:16:3e:..."]; or a profile with mac',
        )
    mac = bytes.fromhex(re.sub("[:-]", "", text))
    if mac[0] & 1 or mac == bytes(6):
        raise SpecError(f"{text} is a group or null address, no guest's MAC")
    return mac


def load_profile(name: str, path: Path = PROFILE_FILE) -> dict[str, object]:
    """The table ``[name]`` of a TOML file, checked for unknown keys and wrong types."""
    import tomllib

    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_PROFILE_FILE + 1)
        if len(raw) > MAX_PROFILE_FILE:
            raise SpecError("the profile file is larger than 1 MiB", where=str(path))
        tables = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the profiles: {error.strerror}", where=str(path)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"not a TOML file: {error}", where=str(path)) from error
    table = tables.get(name)
    if not isinstance(table, dict):
        names = ", ".join(sorted(tables)[:20])
        raise SpecError(
            f"there is no profile {name!r}", where=str(path), hint=f"there are: {names}"
        )
    return _checked(table, f"{path} [{name}]")


def _checked(table: Mapping[str, object], where: str) -> dict[str, object]:
    defaults = {item.name: item.default for item in fields(Settings)}
    values: dict[str, object] = {}
    for key, given in table.items():
        name, value = key.replace("-", "_"), given
        if name not in defaults:
            raise SpecError(
                f"unknown key {key!r}", where=where, hint=f"known are: {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        if kind is tuple:
            entries = [value] if isinstance(value, str) else value
            if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
                raise SpecError(f"{key} takes a list of texts", where=where)
            value = tuple(entries)
        elif type(value) is not kind:
            raise SpecError(f"{key} takes a {kind.__name__}, not {value!r}", where=where)
        values[name] = value
    return values


def merge(profile: Mapping[str, object], arguments: Mapping[str, object]) -> Settings:
    """Settings of a profile overridden by those of the command line, checked together.

    A MAC on the command line that contradicts the profile's is refused: whoever may write a
    domain's arguments may not thereby boot as another guest.
    """
    pinned, given = profile.get("mac"), arguments.get("mac")
    if pinned and given and mac_to_bytes(str(pinned)) != mac_to_bytes(str(given)):
        raise SpecError(
            f"the domain's MAC {given} is not the profile's {pinned}",
            hint="use the profile of this guest, or correct its mac",
        )
    settings = replace(Settings(), **{**profile, **arguments})  # type: ignore[arg-type]
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    mac_to_bytes(settings.mac)
    for name, choices in (("dhcp", DHCP_MODES), ("loader", LOADERS)):
        if getattr(settings, name) not in choices:
            raise SpecError(f"--{name} is one of {', '.join(choices)}")
    for name in ("kernel_limit", "initrd_limit", "timeout"):
        if not 1 <= getattr(settings, name) <= 1 << 20:
            raise SpecError(f"--{name.replace('_', '-')} is out of range")
    for name in ("kernel_sha256", "initrd_sha256"):
        digest = getattr(settings, name)
        if digest and not re.fullmatch("[0-9a-f]{64}", digest, re.IGNORECASE | re.ASCII):
            raise SpecError(f"--{name.replace('_', '-')} takes 64 hexadecimal digits")
    if settings.uuid and not re.fullmatch("[0-9a-fA-F-]{32,36}", settings.uuid):
        raise SpecError(f"{settings.uuid!r} is not a UUID")
    try:
        _ = settings.uuid_value
    except ValueError:
        raise SpecError(f"{settings.uuid!r} is not a UUID") from None
    for address in (settings.ip, *settings.dhcp_server):
        if address and not is_server_address(address):
            raise SpecError(f"{address!r} is not the IPv4 address of a machine")
    for host in (settings.next_server, *settings.allow_host):
        if host and not re.fullmatch("[A-Za-z0-9.-]{1,253}", host, re.ASCII):
            raise SpecError(f"{host[:80]!r} is neither an IPv4 address nor a host name")
    if settings.runas and not re.fullmatch("[1-9][0-9]{0,9}", settings.runas, re.ASCII):
        raise SpecError(f"--runas takes a numeric user id other than 0, not {settings.runas!r}")
    if settings.dhcp == "none" and not (settings.next_server or settings.http):
        raise SpecError("without DHCP the boot server must be named: --next-server or --http")
