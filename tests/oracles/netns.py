"""Network namespaces for tests: made, wired, entered from threads, and taken down again."""

from __future__ import annotations

import ctypes
import os
import random
import secrets
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Lab:
    """A boot server's namespace and a dom0's with a bridge, with a wire between them.

    The wire is a third namespace in which this process forwards frames, and can lose, repeat and
    reorder them (``loss``, ``repeat``, ``reorder`` are probabilities).
    """

    SERVER = "192.0.2.1"
    DOM0 = "192.0.2.2"

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.server, self.dom0, self.wire = (f"ik{tag}{part}" for part in ("s", "d", "w"))
        self.loss = self.repeat = self.reorder = 0.0
        self._rivals: list[str] = []
        self._stop = threading.Event()
        self._relay: threading.Thread | None = None

    def up(self) -> None:
        for name in (self.server, self.dom0, self.wire):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for near, name in (("ws", self.server), ("wd", self.dom0)):
            ip(
                "link",
                "add",
                "eth0",
                "netns",
                name,
                "type",
                "veth",
                "peer",
                "name",
                near,
                "netns",
                self.wire,
            )
            ip("-n", self.wire, "link", "set", near, "up")
        ip("-n", self.server, "addr", "add", f"{self.SERVER}/24", "dev", "eth0")
        ip("-n", self.server, "link", "set", "eth0", "up")
        ip("-n", self.dom0, "link", "add", "xenbr0", "type", "bridge", "forward_delay", "0")
        ip("-n", self.dom0, "link", "set", "eth0", "master", "xenbr0", "up")
        ip("-n", self.dom0, "addr", "add", f"{self.DOM0}/24", "dev", "xenbr0")
        ip("-n", self.dom0, "link", "set", "xenbr0", "up")
        for name, interface in ((self.server, "eth0"), (self.dom0, "eth0"), (self.dom0, "xenbr0")):
            inside(name, partial(checksums_in_software, interface))
        ends = [inside(self.wire, partial(frame_socket, end)) for end in ("ws", "wd")]
        self._relay = threading.Thread(target=self._forward, args=(ends,), daemon=True)
        self._relay.start()

    def add_rival(self, address: str) -> str:
        """Another machine on dom0's bridge, with this address; the name of its namespace."""
        name = f"{self.dom0}{len(self._rivals)}"
        self._rivals.append(name)
        ip("netns", "add", name)
        port = f"rival{len(self._rivals)}"
        ip(
            "link",
            "add",
            "eth0",
            "netns",
            name,
            "type",
            "veth",
            "peer",
            "name",
            port,
            "netns",
            self.dom0,
        )
        ip("-n", self.dom0, "link", "set", port, "master", "xenbr0", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        return name

    def down(self) -> None:
        self._stop.set()
        if self._relay is not None:
            self._relay.join(5)
        for name in (self.server, self.dom0, self.wire, *self._rivals):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def exec(self, name: str, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", name, *argv]

    def _forward(self, ends: list[socket.socket]) -> None:
        dice = random.Random(4)
        held: list[tuple[float, socket.socket, bytes]] = []
        while not self._stop.is_set():
            ready, _, _ = select.select(ends, [], [], 0.005)
            for end in ready:
                frame, address = end.recvfrom(65535)
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                other = ends[1] if end is ends[0] else ends[0]
                if dice.random() < self.loss:
                    continue
                for _ in range(2 if dice.random() < self.repeat else 1):
                    late = dice.random() < self.reorder
                    held.append((time.monotonic() + (0.02 if late else 0.0), other, frame))
            now = time.monotonic()
            for item in [item for item in held if item[0] <= now]:
                held.remove(item)
                try:
                    item[1].send(item[2])
                except OSError:
                    continue
        for end in ends:
            end.close()


@contextmanager
def lab() -> Iterator[Lab]:
    made = Lab()
    try:
        made.up()
        yield made
    finally:
        made.down()


def inside(name: str, action: Callable[[], T]) -> T:
    """Run ``action`` in the network namespace ``name``; sockets it makes stay there."""
    result: list[T] = []

    def enter() -> None:
        fd = os.open(Path("/run/netns") / name, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            result.append(action())
        finally:
            os.close(fd)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert result, "the action in the namespace failed"
    return result[0]


def frame_socket(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((interface, 3))
    sock.setsockopt(263, 1, struct.pack("iHH8s", socket.if_nametoindex(interface), 1, 0, b""))
    return sock


def udp_socket(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.bind((address, port))
    return sock


def tcp_socket(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(16)
    return sock


def checksums_in_software(interface: str) -> bool:
    """Frames that a program forwards need their checksums (ETHTOOL_STXCSUM, STSO, SGSO)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in (0x17, 0x1F, 0x24):
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = ctypes.create_string_buffer(
                struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
            )
            libc.ioctl(sock.fileno(), ctypes.c_ulong(0x8946), request)
    return True
