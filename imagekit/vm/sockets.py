"""Socket pairs between this process and a virtual machine of its own."""

from __future__ import annotations

import contextlib
import socket

SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h; Python has no name for it
ROOM = 16 << 20
"""Bytes of kernel memory for what was not read yet. QEMU writes a serial port's text character by
character, each of which takes some 768 bytes there, and after a few attempts drops what finds no
room (hw/char/serial.c, MAX_XMIT_RETRY): a host too busy to read at once would lose text."""


def roomy_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets that take much text before somebody must read."""
    pair = socket.socketpair()
    for end in pair:
        # Beyond /proc/sys/net/core/wmem_max only CAP_NET_ADMIN gets what it asks for (socket(7)).
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, ROOM)
    return pair
