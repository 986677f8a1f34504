"""What pypxeboot takes from servers and from its own confined child."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import random
from typing import Any

from imagekit.errors import DownloadError
from imagekit.pypxeboot import (
    confine,
    dhcp,
    dhcp_client,
    http_fetch,
    ipxe,
    location,
    pxelinux,
    session,
    tftp,
)
from imagekit.pypxeboot.entry import LocalBoot
from imagekit.pypxeboot.transfer import Deadline, Receiver

from .. import mutate
from ..target import Target

MAC = bytes.fromhex("00163e102036")
_HEAD = 240
_OPTIONS = {
    53: b"\2",
    54: b"\xc0\0\2\1",
    1: b"\xff\xff\xff\0",
    3: b"\xc0\0\2\1",
    12: b"web01",
    60: b"PXEClient",
    66: b"192.0.2.1",
    67: b"pxelinux.0\0",
    150: b"\xc0\0\2\2",
    209: b"pxelinux.cfg/default",
    210: b"http://192.0.2.1/x/",
}


def _offers() -> list[bytes]:
    head = bytearray(dhcp.build(dhcp.Client(MAC), dhcp.OFFER, 7)[:_HEAD])
    head[0] = 2
    head[16:20] = head[20:24] = b"\xc0\0\2\5"
    body = b"".join(bytes([code, len(value)]) + value for code, value in _OPTIONS.items())
    overloaded = bytearray(head)
    overloaded[44:54] = bytes([66, 5]) + b"a.b.c\xff\0\0"
    overloaded[108:118] = bytes([67, 5]) + b"pxe.0\xff\0\0"
    return [
        bytes(head) + body + b"\xff",
        bytes(head) + b"\0" * 8 + body[:7] + b"\xff" + bytes(40),
        bytes(overloaded) + b"\x34\1\3" + body + b"\xff",
    ]


_DHCP = mutate.fields(">", (0, 1), (1, 1), (2, 1), (16, 4), (20, 4), (44, 1), (108, 1), (236, 4))


def _mutate_dhcp(source: random.Random, data: bytes) -> bytes:
    """An option added, cut, doubled or made longer, or any field."""
    kind = source.randrange(4)
    if kind == 0:
        return mutate.binary(source, data, _DHCP)
    ends = [_HEAD]
    while ends[-1] + 1 < len(data) and data[ends[-1]] not in (0, 255):
        ends.append(ends[-1] + 2 + data[ends[-1] + 1])
    at = source.choice(ends)
    if kind == 1:
        code = source.choice((*_OPTIONS, 52, 0, 255, source.randrange(256)))
        value = source.choice((_OPTIONS.get(code, b""), source.randbytes(source.randrange(20))))
        return data[:at] + bytes([code, len(value)]) + value + data[at:]
    if kind == 2:
        return data[:_HEAD] + mutate.binary(source, data[_HEAD:])
    changed = bytearray(data)
    if at + 1 < len(changed):
        changed[at + 1] = source.randrange(256)
    return bytes(changed)


def _dhcp(data: bytes) -> bool:
    dhcp.lease(dhcp.parse(data))
    return True


def _sent(message: bytes) -> bytes:
    """An IP packet with ``message`` from a server: that of a client with its ports swapped."""
    packet = dhcp_client.wrap(message)
    return packet[:20] + packet[22:24] + packet[20:22] + packet[24:]


def _packets() -> list[bytes]:
    return [_sent(offer) for offer in _offers()]


_PACKET = mutate.fields(">", (0, 1), (2, 2), (6, 2), (9, 1), (20, 2), (22, 2), (24, 2), (26, 2))


def _mutate_packet(source: random.Random, data: bytes) -> bytes:
    if source.random() < 0.6:
        # The message changes, and the lengths and sums around it are made right again.
        return _sent(_mutate_dhcp(source, data[28:])[:1400])
    return mutate.binary(source, data, _PACKET)


def _packet(data: bytes) -> bool:
    found = False
    for ready in (True, False):
        message = dhcp_client.unwrap(data, checksum_ready=ready)
        if message is not None:
            found = True
            dhcp.lease(dhcp.parse(message))
    return found


_OACK = b"\0\6blksize\x001408\0tsize\x001000000\0windowsize\x0016\0"
_TFTP_WORDS = (b"blksize", b"tsize", b"windowsize", b"1408", b"0", b"-1", b"9" * 30, b"x", b"")


def _mutate_tftp(source: random.Random, data: bytes) -> bytes:
    if source.random() < 0.5:
        return mutate.binary(source, data, mutate.fields(">", (0, 2), (2, 2)))
    words = data[2:].split(b"\0")
    words[source.randrange(len(words))] = source.choice(_TFTP_WORDS)
    return data[:2] + b"\0".join(words)


def _tftp(data: bytes) -> bool:
    packet = tftp.parse(data)
    if packet.options is not None:
        tftp.agree(packet.options, tftp.Wanted())
    return True


_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nall there is",
    b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/x/y\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
)
_HTTP_WORDS = (
    *(
        "Content-Length: -1",
        "Content-Length: 99999999999",
        "Transfer-Encoding: chunked",
        "HTTP/1.1",
    ),
    *("200", "301", "Location: //x/..", "Location: file:///etc/passwd", "ffffffffffffffff", "0"),
    *("Location: http://a@b/", "\r", "X: " + "y" * 70000, "Connection: close", "-5", "0x5", "1_0"),
)


class _Socket:
    """A connection that has sent everything already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _http(data: bytes) -> bool:
    deadline = Deadline(3600)
    target = http_fetch._Target("http://192.0.2.1/x", lambda _: True)
    receiver = Receiver("fuzz", 1 << 16, deadline)
    fake: Any = _Socket(data)
    response = http.client.HTTPResponse(fake, method="GET")
    try:
        response.begin()
        found = http_fetch._read(response, target, receiver)
        if found is not None:
            here = location.from_url("http://192.0.2.1/x/")
            http_fetch._Target(here.resolve(found).url, lambda _: True)
    except (http.client.HTTPException, OSError, ValueError) as error:
        # As http_fetch._get() does.
        if response.version == http.client._UNKNOWN:  # type: ignore[attr-defined]
            return False
        raise DownloadError(f"the transfer broke: {error}") from error
    return True


def _mutate_http(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, _HTTP_WORDS)


_PXELINUX = """default menu.c32
prompt 0
timeout 50
menu title Boot
include other.cfg
label install
  menu label ^Install
  menu default
  kernel debian/linux
  append initrd=debian/initrd.gz vga=788 --- quiet
  ipappend 2
label local
  localboot 0
label linux
  linux vmlinuz
  initrd a.img,b.img
  sysappend 0x7
  text help
    What it does.
  endtext
"""
_PXELINUX_WORDS = (
    *(
        "label",
        "default",
        "append",
        "initrd",
        "kernel",
        "linux",
        "localboot",
        "ipappend",
        "include",
    ),
    *(
        "menu",
        "ui",
        "text",
        "help",
        "endtext",
        "ontimeout",
        "sysappend",
        "com32",
        "initrd=a,b",
        "-",
    ),
    *("chain.c32", "menu.c32", "#", "0", "2", "0x7", "install", "menu begin", "menu end", "../x"),
    *("http://x/y", "menu include x", "9" * 30, "fdimage", "totaltimeout", "allowoptions"),
)


def _pxelinux(data: bytes) -> bool:
    text = data.decode("utf-8", "replace")
    config = pxelinux.parse(text, lambda _: text[:200])
    if not config.labels:
        return False
    found = pxelinux.choose(config)
    if not isinstance(found, LocalBoot):
        assert not any(word.startswith("initrd=") for word in found.args.split())
    return True


_IPXE = """#!ipxe
set base http://192.0.2.1/debian
set args auto=true url=${base}/preseed.cfg mac=${net0/mac:hexhyp}
kernel --name linux ${base}/linux ${args} || goto failed
initrd ${base}/initrd.gz
imgargs linux initrd=initrd.gz ${args} console=hvc0
boot
"""
_IPXE_WORDS = (
    *("set", "kernel", "initrd", "imgargs", "boot", "chain", "exit", "sanboot", "${mac}", "${"),
    *("${net0/ip:hexhyp}", "}", "${x}", "\\", "--name", "-n", "a", "||", "clear", "imgfree", "&&"),
    *("${a}${a}", "--drive", "0x80", "goto x", ":x", "isset ${x}", "iseq a b", "dhcp", "shell"),
)
_SETTINGS = ipxe.machine_settings(mac=MAC, address="192.0.2.5")


def _ipxe(data: bytes) -> bool:
    text = data.decode("utf-8", "replace")
    ipxe.run(text, _SETTINGS, lambda _: text, where="fuzz")
    return True


_NAMES = (
    *(
        "pxelinux.0",
        "/a/b/../c",
        "http://192.0.2.1:8080/x/y?z=1#f",
        "tftp://h/a",
        "h::/a",
        "../../x",
    ),
    *("https://[2001:db8::1]/x", "a%2e%2e/b", "http://user@h/x"),
)
_NAME_WORDS = ("..", "//", "http://", "[::1]", "%2e", "\0", "\\", "?", "#", "@", ":99999", "::")


def _mutate_name(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, _NAME_WORDS)


def _names(data: bytes) -> bool:
    name = data.decode("utf-8", "replace")
    for prefix in ("", "a/", "/a/b", "http://h/x/"):
        place = location.server_root("192.0.2.1", prefix).resolve(name)
        assert ".." not in place.path.split("/")
        assert place.scheme in location.SCHEMES
    return True


def _kernel_check(data: bytes) -> bool:
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        session.check_kernel(fd, "fuzz")
    finally:
        os.close(fd)
    return True


def _kernel_heads() -> list[bytes]:
    head = bytearray(0x300)
    head[0x202:0x206] = b"HdrS"
    elf = b"\x7fELF" + bytes(60)
    return [bytes(head), elf, gzip.compress(elf, mtime=0)]


_CHILD = (
    b'{"kernel": "/x/vmlinuz", "ramdisk": "/x/initrd", "args": "ro quiet", "facts": {"a": 1}}',
    b'{"error": "no answer", "where": "eth0", "hint": "plug it in", "class": "DownloadError"}',
)
_JSON_WORDS = (
    *("{", "}", "[", "]", '"', ":", ",", "null", "true", "1e999", "-1", '"class": "Path"', "NaN"),
    *('"error": []', '"class": "ImagekitError"', '"a": {"b": []}', "[" * 2000, "9" * 5000),
    *('"\\ud800"', '""', '"__class__"', '"where": 5'),
)


def mutate_json(source: random.Random, data: bytes) -> bytes:
    """A value in it, or words and punctuation."""
    if source.random() < 0.6 and (changed := mutate.tree(source, data)) != data:
        return changed
    return mutate.text(source, data.replace(b", ", b",\n"), _JSON_WORDS)


def _confined(data: bytes) -> bool:
    confine._unpack(data)
    return True


def _mutate_pxelinux(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, _PXELINUX_WORDS)


def _mutate_ipxe(source: random.Random, data: bytes) -> bytes:
    return mutate.text(source, data, _IPXE_WORDS)


def _mutate_kernel_head(source: random.Random, data: bytes) -> bytes:
    return mutate.binary(source, data, mutate.fields("<", (0, 4), (0x202, 4), (10, 2), (3, 1)))


TARGETS = (
    Target("dhcp", _offers, _mutate_dhcp, _dhcp, ("of only", "hardware type", "magic cookie")),
    Target("dhcp-packet", _packets, _mutate_packet, _packet, ("of only", "magic cookie")),
    Target(
        "tftp",
        lambda: [_OACK, b"\0\3\0\1" + bytes(100), b"\0\5\0\1not found\0"],
        _mutate_tftp,
        _tftp,
        ("of only", "opcode"),
    ),
    Target("http", lambda: _ANSWERS, _mutate_http, _http),
    Target("pxelinux", lambda: [_PXELINUX.encode()], _mutate_pxelinux, _pxelinux),
    Target("ipxe", lambda: [_IPXE.encode()], _mutate_ipxe, _ipxe),
    Target("names", lambda: [name.encode() for name in _NAMES], _mutate_name, _names),
    Target("kernel-check", _kernel_heads, _mutate_kernel_head, _kernel_check, ("no Linux kernel",)),
    Target("confined-answer", lambda: _CHILD, mutate_json, _confined, ("died without",)),
)
