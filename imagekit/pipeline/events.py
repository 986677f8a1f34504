"""Events of a build, and the sinks that show or keep them. Secrets are masked before any sink."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

MASK = "***"


@dataclass(frozen=True)
class Event:
    """One thing that happened: ``kind`` such as "stage-started", and its fields."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0

    def to_json(self) -> str:
        """The event as one line of JSON: {"event": kind, "time": seconds since 1970, ...}."""
        return json.dumps(
            {"event": self.kind, "time": round(self.time, 3), **self.fields}, ensure_ascii=True
        )


class Sink(Protocol):
    """Anything that takes events: a progress bar, plain lines, JSON lines, a log file."""

    def __call__(self, event: Event) -> None:
        """Take one event; secrets in it are masked."""


class Events:
    """Sends events to its sinks, masking every registered secret; safe from several threads."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = list(sinks)
        self._secrets: set[str] = set()
        self._lock = threading.Lock()

    def add(self, sink: Sink) -> None:
        """Send events to ``sink`` as well from now on."""
        self._sinks.append(sink)

    def hide(self, secret: str) -> None:
        """Never let ``secret`` appear in an event; shorter than four characters is ignored."""
        if len(secret) >= 4:
            self._secrets.add(secret)

    def mask(self, text: str) -> str:
        """``text`` with every registered secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def emit(self, kind: str, **fields: Any) -> None:
        """Send one event; string fields are masked."""
        masked = {k: self.mask(v) if isinstance(v, str) else v for k, v in fields.items()}
        event = Event(kind, masked, time.time())
        with self._lock:
            for sink in self._sinks:
                sink(event)


class JsonLines:
    """Writes each event as a line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Write ``event``."""
        _print(event.to_json(), self._stream)


class PlainLines:
    """Writes stage changes as plain lines for a log file or a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Write ``event``, if it is one that a log should have."""
        line = plain_line(event)
        if line:
            _print(line, self._stream)


def _print(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        # Whoever listened has gone: that is no reason to leave the work half done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def plain_line(event: Event) -> str | None:
    """The line a person reads for ``event``, or None when it is only for machines."""
    f = event.fields
    match event.kind:
        case "stage-started":
            return f"{f['stage']}: {f['title']}"
        case "stage-finished":
            if f.get("cached"):
                return f"{f['stage']}: cached"
            return f"{f['stage']}: done in {f['seconds']:.1f} s"
        case "stage-failed":
            return f"{f['stage']}: failed"
        case "stage-stopped":
            return f"{f['stage']}: stopped"
        case "note" | "warning":
            return f"{event.kind}: {f['text']}"
    return None
