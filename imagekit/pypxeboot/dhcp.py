"""DHCP messages: building a PXE client's and reading a server's.

Sources: RFC 2131 (format, field sizes), RFC 2132 (options 1-76), RFC 3396 (long options),
RFC 4578 (options 93, 94, 97), RFC 5071 (options 209, 210), RFC 5859 (option 150),
RFC 3004 (option 77), PXE specification 2.1 (vendor class).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from imagekit.errors import DownloadError
from imagekit.host.addresses import is_server_address

MAGIC_COOKIE = b"\x63\x82\x53\x63"
BROADCAST_FLAG = 0x8000
MAX_MESSAGE = 9216
"""Bytes; no DHCP message fits more than one (jumbo) frame, larger ones are refused."""

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6

PAD, END = 0, 255
NETMASK, ROUTER, DNS, HOSTNAME, DOMAIN = 1, 3, 6, 12, 15
REQUESTED_IP, OVERLOAD, MESSAGE_TYPE, SERVER_ID, PARAMETERS = 50, 52, 53, 54, 55
MESSAGE, MAX_SIZE, VENDOR_CLASS, CLIENT_ID = 56, 57, 60, 61
TFTP_SERVER_NAME, BOOTFILE_NAME, USER_CLASS = 66, 67, 77
CLIENT_ARCH, CLIENT_UNDI, CLIENT_UUID = 93, 94, 97
TFTP_SERVER_ADDRESS, CONFIG_FILE, PATH_PREFIX = 150, 209, 210

WANTED_ADDRESSES = (NETMASK, ROUTER, DNS, HOSTNAME, DOMAIN, 17, 43)
WANTED_BOOT = (TFTP_SERVER_NAME, BOOTFILE_NAME, TFTP_SERVER_ADDRESS, CONFIG_FILE, PATH_PREFIX)
WANTED = bytes((*WANTED_ADDRESSES, *WANTED_BOOT))
PXE_CLASS = b"PXEClient:Arch:00000:UNDI:002001"

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")


@dataclass(frozen=True)
class Client:
    """The guest on whose behalf we ask: its MAC (6 bytes), and its UUID if known."""

    mac: bytes
    uuid: UUID | None = None
    user_class: str | None = None


@dataclass(frozen=True)
class Message:
    """A parsed DHCP message; addresses are dotted strings, ``options`` hold joined raw values."""

    op: int
    xid: int
    chaddr: bytes
    yiaddr: str
    siaddr: str
    file: bytes
    options: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def kind(self) -> int:
        """The DHCP message type (option 53), 0 for plain BOOTP."""
        value = self.options.get(MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else 0


@dataclass(frozen=True)
class Lease:
    """What a server told the guest. Addresses are dotted strings; "" means not told.

    ``boot_server`` is option 66 when that is an address, else option 150, else siaddr, else, for
    a proxy that gives no address away, the proxy itself.
    """

    address: str
    server_id: str
    boot_server: str
    bootfile: str
    netmask: str = ""
    router: str = ""
    config_file: str = ""
    path_prefix: str = ""
    hostname: str = ""
    is_explicit: bool = False
    """Whether it speaks of booting on purpose; dnsmasq always fills in siaddr, so that does not."""

    @property
    def can_boot(self) -> bool:
        """Whether it says where to boot from: a server, or a URL."""
        return bool(self.boot_server) or "://" in self.bootfile or "://" in self.path_prefix

    @property
    def boot_facts(self) -> tuple[str, str, str, str]:
        """What two servers must agree on."""
        return self.boot_server, self.bootfile, self.config_file, self.path_prefix


def build(
    client: Client,
    kind: int,
    xid: int,
    *,
    seconds: int = 0,
    extra: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """A DISCOVER or REQUEST as a PXE ROM would send it, with the broadcast flag set.

    The broadcast flag is what makes the answer reach dom0, which does not own the address asked
    for. ``seconds`` since the first try.
    """
    header = _HEADER.pack(
        *(1, 1, 6, 0, xid, min(seconds, 0xFFFF), BROADCAST_FLAG),
        *(bytes(4), bytes(4), bytes(4), bytes(4)),
        *(client.mac, b"", b""),
    )
    options: list[tuple[int, bytes]] = [
        (MESSAGE_TYPE, bytes([kind])),
        (CLIENT_ID, b"\x01" + client.mac),
        (MAX_SIZE, struct.pack("!H", 1472)),
        (PARAMETERS, WANTED),
        (VENDOR_CLASS, PXE_CLASS),
        (CLIENT_ARCH, b"\x00\x00"),
        (CLIENT_UNDI, b"\x01\x02\x01"),
        *extra,
    ]
    if client.uuid is not None:
        # SMBIOS byte order: the first three fields are little-endian, as PXE ROMs send them.
        options.append((CLIENT_UUID, b"\x00" + client.uuid.bytes_le))
    if client.user_class:
        options.append((USER_CLASS, client.user_class.encode("ascii")))
    body = b"".join(bytes([code, len(value)]) + value for code, value in options)
    message = header + MAGIC_COOKIE + body + bytes([END])
    return message.ljust(300, b"\0")


def parse(data: bytes) -> Message:
    """Read a DHCP message of at most MAX_MESSAGE bytes; raises DownloadError when malformed."""
    if len(data) > MAX_MESSAGE:
        raise DownloadError(f"DHCP message of {len(data)} bytes, the limit is {MAX_MESSAGE}")
    if len(data) < _HEADER.size + 4:
        raise DownloadError(f"DHCP message of only {len(data)} bytes")
    op, htype, hlen, _, xid, _, _, _, yiaddr, siaddr, _, chaddr, sname, file = _HEADER.unpack_from(
        data
    )
    if htype != 1 or hlen != 6:
        raise DownloadError(f"DHCP message for hardware type {htype} with {hlen}-byte addresses")
    if data[_HEADER.size : _HEADER.size + 4] != MAGIC_COOKIE:
        raise DownloadError("BOOTP message without the DHCP magic cookie")
    options: dict[int, bytearray] = {}
    _read_options(data[_HEADER.size + 4 :], options)
    overload = options.get(OVERLOAD, b"")
    flags = overload[0] if len(overload) == 1 else 0
    if flags & 1:
        _read_options(file, options)
        file = b""
    if flags & 2:
        _read_options(sname, options)
    return Message(
        op=op,
        xid=xid,
        chaddr=chaddr[:6],
        yiaddr=_address(yiaddr),
        siaddr=_address(siaddr),
        file=file.split(b"\0", 1)[0],
        options={code: bytes(value) for code, value in options.items()},
    )


def _read_options(area: bytes, into: dict[int, bytearray]) -> None:
    position = 0
    while position < len(area):
        code = area[position]
        position += 1
        if code == PAD:
            continue
        if code == END:
            return
        if position >= len(area) or position + 1 + area[position] > len(area):
            raise DownloadError(f"DHCP option {code} runs past the end of the message")
        length = area[position]
        # RFC 3396: a repeated option is one long option cut in pieces.
        into.setdefault(code, bytearray()).extend(area[position + 1 : position + 1 + length])
        position += 1 + length
    raise DownloadError("DHCP options without an end mark")


def lease(message: Message) -> Lease:
    """The facts in an OFFER or ACK; raises DownloadError when a text or address is malformed."""
    options = message.options
    bootfile = options.get(BOOTFILE_NAME, b"").rstrip(b"\0") or message.file
    server_id = _one_address(options, SERVER_ID)
    address = "" if message.yiaddr == "0.0.0.0" else message.yiaddr  # noqa: S104
    vendor = options.get(VENDOR_CLASS, b"")
    told = any(code in options for code in WANTED_BOOT)
    return Lease(
        is_explicit=bool(bootfile) or told or vendor.startswith(b"PXEClient"),
        address=address,
        server_id=server_id,
        boot_server=_boot_server(message, server_id, is_proxy=not address),
        bootfile=_text(bootfile, "boot file name"),
        netmask=_one_address(options, NETMASK),
        router=_one_address(options, ROUTER),
        config_file=_text(options.get(CONFIG_FILE, b""), "option 209"),
        path_prefix=_text(options.get(PATH_PREFIX, b""), "option 210"),
        hostname=_text(options.get(HOSTNAME, b""), "option 12"),
    )


def _boot_server(message: Message, server_id: str, *, is_proxy: bool) -> str:
    named = message.options.get(TFTP_SERVER_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
    if is_server_address(named):
        return named
    by_option = _one_address(message.options, TFTP_SERVER_ADDRESS)
    for candidate in (by_option, message.siaddr):
        if is_server_address(candidate):
            return candidate
    if is_proxy and message.options.get(VENDOR_CLASS, b"").startswith(b"PXEClient"):
        return server_id if is_server_address(server_id) else ""
    return ""


def _address(raw: bytes) -> str:
    return str(ipaddress.IPv4Address(raw))


def _one_address(options: Mapping[int, bytes], code: int) -> str:
    value = options.get(code, b"")
    if value and len(value) % 4:
        raise DownloadError(f"DHCP option {code} of {len(value)} bytes is not a list of addresses")
    return _address(value[:4]) if value else ""


def _text(raw: bytes, what: str) -> str:
    raw = raw.rstrip(b"\0")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DownloadError(f"the {what} in the DHCP answer is not text") from None
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        raise DownloadError(f"the {what} in the DHCP answer holds control characters")
    return text
