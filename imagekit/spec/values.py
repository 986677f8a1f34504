"""The small values specs are made of: sizes, names, MACs, paths, each refused with what is allowed.

Rules for names that reach a toolstack: xl's ``libxl_name`` handling (tools/libs/light), xenstore
path characters, and RFC 1123 host names.
"""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

UNITS = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "T": 1 << 40,
}
MAX_SIZE = 64 << 40
_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))? ?([A-Za-z]{1,3})")
_NAME = re.compile(r"[A-Za-z0-9_.:+-]+")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")
_BRIDGE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_VIF_BRIDGE = re.compile(_BRIDGE.pattern + r"(\.[0-9]{1,4})?(:[0-9]{1,4})*")
# What useradd(8) of Debian and of RHEL both take, without upper case; sudoers(5) reads such names.
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
# Names that are there already may also begin with a digit; digits alone are an id.
_OWNER = re.compile(r"[a-z0-9_][a-z0-9_.-]*\$?(:[a-z0-9_][a-z0-9_.-]*\$?)?")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~-]+)?")
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_SHA256 = r"[0-9a-fA-F]{64}"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TIME_ZONE = r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*"
_LOCALE = r"[A-Za-z0-9_.@-]+"
_RATE = re.compile(r"[0-9]+[GMK]?[Bb]/s(@[0-9]+[mu]?s)?")


def parse_size(value: Any) -> int:
    """A size with a unit ("512MiB", "10GiB", "1.5GB") as bytes; raises ValueError."""
    allowed = "write a number and a unit, for example 512MiB or 10GiB"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        kinds = {dict: "a mapping", list: "a list", bool: "a truth value"}
        kind = kinds.get(type(value), "nothing")
        raise ValueError(f"{kind} is not a size; {allowed}")
    if isinstance(value, int | float):
        if value == 0:
            return 0
        if abs(value) > 1 << 20:
            raise ValueError(f"{value} has no unit; {allowed}")
        raise ValueError(f"{value} has no unit; write {value:g}GiB or {value:g}MiB")
    match = _SIZE.fullmatch(value.strip())
    if match is None or match[3] not in UNITS:
        raise ValueError(f"{value!r} is not a size; {allowed}")
    unit = UNITS[match[3]]
    size = int(match[1]) * unit
    if match[2]:
        size += int(match[2]) * unit // 10 ** len(match[2])
    if size > MAX_SIZE:
        raise ValueError(f"{value!r} is too large; the most is 64TiB")
    return size


def format_size(size: int) -> str:
    """``size`` bytes in the largest binary unit that needs no fraction ("2GiB")."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return f"{size}B"


def parse_memory(value: Any) -> int:
    """Memory in MiB: a size with a unit, or a bare number of MiB as every Xen toolstack has it."""
    if isinstance(value, int) and not isinstance(value, bool):
        mib = value
    else:
        size = parse_size(value)
        if size % (1 << 20):
            raise ValueError(f"{value!r} is not a whole number of MiB")
        mib = size >> 20
    if not 16 <= mib <= 16 << 20:
        raise ValueError(f"{value} is not allowed: memory must be from 16MiB to 16TiB")
    return mib


def plain_text(value: str) -> str:
    """A string without control characters; raises ValueError."""
    for char in value:
        if unicodedata.category(char) in ("Cc", "Zl", "Zp"):
            raise ValueError(f"control character U+{ord(char):04X} is not allowed")
    return value


def _matches(pattern: re.Pattern[str], what: str) -> Any:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return AfterValidator(check)


def _in_schema(pattern: str) -> WithJsonSchema:
    """Text of the regular expression ``pattern``, for editors."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


def _variable(value: str) -> str:
    if not re.fullmatch(_VARIABLE, value):
        # Not shown: it may be the secret itself.
        raise ValueError("this is not the name of an environment variable, such as ROOT_HASH")
    return value


def _guest_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a domain name; allowed are letters, digits and _ . : + -"
        )
    if value.isdigit():
        raise ValueError("a domain name of digits alone would be taken for a domain id")
    if value == "Domain-0" or value.startswith("-"):
        raise ValueError(f"{value!r} is reserved")
    return value


def _host_name(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a host name; allowed are letters, digits and hyphens, at most 63, "
            "without a dot (the domain has its own field)"
        )
    return value


def _dns_name(value: str) -> str:
    if len(value) > 253 or not all(_LABEL.fullmatch(part) for part in value.split(".")):
        raise ValueError(f"{value!r} is not a DNS domain, for example example.org")
    return value


def parse_mac(value: str) -> str:
    """A unicast MAC in lower case with colons; raises ValueError."""
    if not _MAC.fullmatch(value):
        raise ValueError(f"{value!r} is not a MAC address, for example 00:16:3e:12:34:56")
    mac = value.lower().replace("-", ":")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError(f"{value!r} is a multicast or null address; a VIF needs a unicast one")
    return mac


def _guest_path(value: str) -> str:
    plain_text(value)
    if not value.startswith("/"):
        raise ValueError(f"{value!r} must be an absolute path inside the guest")
    if ".." in value.split("/"):
        raise ValueError(f"{value!r} leaves the guest: '..' is not allowed")
    if len(value.encode()) > 4095:
        raise ValueError("the path is longer than 4095 bytes")
    return value


def _host_path(value: str) -> str:
    plain_text(value)
    if not value:
        raise ValueError("the path is empty")
    if "," in value:
        raise ValueError(f"{value!r}: a comma in a path breaks disk specifications; rename it")
    return value


def _named_path(value: Path) -> Path:
    plain_text(str(value))
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("half a character is in it") from None
    return value


def _cidr(value: str) -> str:
    try:
        return str(ipaddress.ip_interface(value)) if "/" in value else _cidr_needs_length(value)
    except ValueError as error:
        raise ValueError(f"{error}; write an address with its prefix, 192.0.2.10/24") from None


def _cidr_needs_length(value: str) -> str:
    ipaddress.ip_address(value)
    raise ValueError(f"{value!r} has no prefix length")


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _url(value: str) -> str:
    plain_text(value)
    if not re.fullmatch(r"(https?|file|copy|cdrom|ftp)://?[^\s\"'\\<>\[\]]+", value):
        raise ValueError(f"{_without_password(value)!r} is not a URL such as https://host/path")
    return value


def _without_password(value: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", value)


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? ?[A-Za-z]{1,3}$"}),
]
MemoryMiB = Annotated[
    int, BeforeValidator(parse_memory), WithJsonSchema({"type": ["string", "integer"]})
]


def _host_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else ""
    known = _is_address(inner, 6) or _is_address(host, 4) or _HOST.fullmatch(host)
    if not known or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise ValueError(f"{value!r} is not HOST:PORT, such as repo.example.net:443")
    return value


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


_HOST = re.compile(r"(?!.{254})[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*\.?")
Text = Annotated[str, AfterValidator(plain_text), Field(max_length=4096)]
GuestName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_guest_name)]
HostName = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_host_name)]
DnsName = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_dns_name)]
Mac = Annotated[str, AfterValidator(parse_mac)]
Bridge = Annotated[str, _matches(_BRIDGE, "a bridge name (at most 15 of letters, digits, _ . -)")]
VifBridge = Annotated[
    str,
    _matches(_VIF_BRIDGE, "a bridge (at most 15 of letters, digits, _ . -), or NAME.TAG:TRUNK"),
]
UserName = Annotated[str, _matches(_USER, "a user name (lower case, at most 32)")]
Owner = Annotated[str, _matches(_OWNER, "USER or USER:GROUP, names of the guest or numbers")]
PackageName = Annotated[str, _matches(_PACKAGE, "a package name, optionally with =version")]
Rate = Annotated[str, _matches(_RATE, "a rate such as 10MB/s or 1Gb/s@20ms")]
GuestPath = Annotated[str, AfterValidator(_guest_path)]
HostPath = Annotated[str, AfterValidator(_host_path)]
NamedPath = Annotated[Path, AfterValidator(_named_path)]
"""A file of this host that no disk specification names. What the kernel takes for no name, a NUL
in it or half a character, makes Python raise ValueError wherever it is used."""
Cidr = Annotated[str, AfterValidator(_cidr)]
Address = Annotated[str, AfterValidator(_address)]
Url = Annotated[str, AfterValidator(_url)]
FileMode = Annotated[
    str,
    _matches(re.compile(r"0?[0-7]{3,4}"), 'a quoted octal mode such as "0644"'),
]
HostPort = Annotated[str, AfterValidator(_host_port)]
Word = Annotated[
    str, _matches(re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*"), "a word of letters, digits, _ . + -")
]
Variable = Annotated[str, AfterValidator(_variable), _in_schema(_VARIABLE)]
Sha256 = Annotated[
    str,
    _matches(re.compile(_SHA256), "a SHA-256: 64 hexadecimal digits, as sha256sum prints them"),
    _in_schema(_SHA256),
]
Uuid = Annotated[
    str,
    _matches(re.compile(_UUID), "a UUID in lower case, as uuidgen prints it"),
    _in_schema(_UUID),
]
TimeZone = Annotated[
    str,
    _matches(re.compile(_TIME_ZONE), "a time zone such as Europe/Berlin or Etc/UTC"),
    _in_schema(_TIME_ZONE),
]
Locale = Annotated[
    str, _matches(re.compile(_LOCALE), "a locale such as de_DE.UTF-8"), _in_schema(_LOCALE)
]
