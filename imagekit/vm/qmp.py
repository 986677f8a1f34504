"""Talks to a QEMU over its machine protocol.

Source: QEMU docs/interop/qmp-spec.txt, and the schema in qapi/*.json.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from imagekit.errors import ToolError

MAX_MESSAGE = 8 << 20


class Messages:
    """Takes what QEMU sends apart into messages, one JSON object a line."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that ``data`` completes. Raises ToolError for what is none, or too long."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_MESSAGE:
            raise ToolError("QEMU answers with a message of more than 8 MiB")
        try:
            values = [json.loads(line) for line in lines if line.strip()]
        except (ValueError, RecursionError):
            raise ToolError("QEMU answers with something that is not JSON") from None
        return [value for value in values if isinstance(value, dict)]


def request(name: str, ident: str = "", arguments: Mapping[str, Any] | None = None) -> bytes:
    """The line that asks QEMU for the command ``name``; its answer carries ``ident``."""
    value = {"execute": name, "arguments": dict(arguments or {}), "id": ident}
    return json.dumps(value).encode() + b"\n"


class Qmp:
    """One connection; ``command`` is the only thing to do with it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._messages = Messages()
        self._waiting: deque[dict[str, Any]] = deque()
        self._number = 0

    def greet(self, timeout: float) -> None:
        """Read the greeting and leave the negotiation; ``timeout`` in seconds."""
        deadline = time.monotonic() + timeout
        while "QMP" not in self._message(deadline):
            pass
        self.command("qmp_capabilities")

    def command(self, name: str, *, fd: int | None = None, timeout: float = 60, **args: Any) -> Any:
        """Run a command and return its result; ``fd`` is passed along (getfd).

        Argument names use ``_`` for ``-``. Raises ToolError when QEMU refuses, is silent for
        ``timeout`` seconds or is gone.
        """
        self._number += 1
        ident = str(self._number)
        arguments = {key.replace("_", "-"): value for key, value in args.items()}
        data = request(name, ident, arguments)
        try:
            if fd is None:
                self._socket.sendall(data)
            else:
                socket.send_fds(self._socket, [data], [fd])
        except OSError as error:
            raise ToolError(f"QEMU is gone: {error.strerror}") from None
        deadline = time.monotonic() + timeout
        while True:
            answer = self._message(deadline)
            if answer.get("id") != ident:
                continue
            if "error" in answer:
                detail = (
                    answer["error"].get("desc", "") if isinstance(answer["error"], dict) else ""
                )
                raise ToolError(f"QEMU refused {name}: {detail}")
            return answer.get("return")

    def _message(self, deadline: float) -> dict[str, Any]:
        while not self._waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ToolError("QEMU does not answer")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise ToolError("QEMU does not answer") from None
            except OSError as error:
                raise ToolError(f"QEMU is gone: {error.strerror}") from None
            if not data:
                raise ToolError("QEMU is gone")
            self._waiting.extend(self._messages.feed(data))
        return self._waiting.popleft()
