"""The QEMU that an installer runs in, driven by two serial ports and QEMU's machine protocol.

Sources: QEMU docs/interop/qmp-spec.txt, qapi/run-state.json (SHUTDOWN and its reasons),
qapi/block-core.json (BLOCK_IO_ERROR, query-blockstats).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import selectors
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagekit.answers.context import Static
from imagekit.errors import SpecError
from imagekit.vm.card import QEMU_HOST, Bus, Card, NetworkBoot, Subnet
from imagekit.vm.gate import Endpoint, Reach
from imagekit.vm.handed import Handed
from imagekit.vm.launch import QEMU, Line, start
from imagekit.vm.options import Board, Processor, option
from imagekit.vm.qmp import Messages, request
from imagekit.vm.uefi import require_uefi

LINES = (Line("console"), Line("syslog"), Line("monitor", "qmp"))
MAX_LOG = 32 << 20
MAX_LINE = 8 << 20
STATISTICS_SECONDS = 5.0
RECENT_LINES = 200


@dataclass(frozen=True)
class Hardware:
    """The machine: memory in MiB, ``firmware`` bios or uefi, ``bus`` of the disk virtio or ide.

    ``media`` is what it boots before the disk: the CD, or the network. ``static`` makes QEMU's
    network the one that the guest's fixed address is in. ``reach`` is what the guest reaches
    beyond QEMU.
    """

    media: Path | NetworkBoot
    disk: Path
    memory: int
    kvm: bool
    firmware: str = "bios"
    mac: str = "52:54:00:12:34:56"
    bus: Bus = "virtio"
    static: Static | None = None
    reach: tuple[Endpoint, ...] = ()

    @property
    def alias(self) -> str:
        """This host's address in QEMU's network."""
        subnet = _subnet(self.static)
        return subnet.gateway if subnet else QEMU_HOST

    def argv(self, handed: Handed) -> list[str]:
        """QEMU's command line, but for the firmware's flash and the lines to this process.

        ``handed`` learns which files are in it.
        """
        boot = None
        if isinstance(self.media, NetworkBoot):
            boot = NetworkBoot(handed.directory(self.media.tftp), self.media.program)
        processor = Processor.best(kvm=self.kvm, translated_mib=512)
        # SeaBIOS then says on the serial port too what it and the PXE ROM say on the screen.
        board = Board(processor, self.memory, "pc" if boot else "", graphics=not boot)
        argv = [QEMU, *board.argv(), "-device", "VGA", "-device", "virtio-rng-pci"]
        if not isinstance(self.media, NetworkBoot):
            argv += option(
                "-drive",
                file=handed.file(self.media),
                format="raw",
                if_="none",
                id="cd",
                readonly=True,
            )
            argv += option("-device", "ide-cd", drive="cd", bus="ide.1", bootindex=1)
        argv += _disk(handed.file(self.disk, writable=True), self.bus)
        card = Card(
            self.bus,
            self.mac,
            subnet=_subnet(self.static),
            boot=boot,
            rom=boot is not None,
            bootindex=1 if boot else None,
        )
        return [*argv, *card.argv()]


def _disk(disk: Path, bus: Bus) -> list[str]:
    drive = option(
        "-drive",
        file=disk,
        format="raw",
        if_="none",
        id="disk",
        cache="unsafe",
        discard="unmap",
        **{"detect-zeroes": "unmap"},
        werror="stop",
        rerror="stop",
    )
    if bus == "virtio":
        return [*drive, *option("-device", "virtio-blk-pci", drive="disk", bootindex=2)]
    return [*drive, *option("-device", "ide-hd", bus="ide.0", drive="disk", bootindex=2)]


@dataclass
class Running:
    """A running machine: what it said, when it last did anything, and how it ended.

    ``reason`` is QEMU's (guest-shutdown, guest-reset, ...) once the guest stopped.
    """

    process: subprocess.Popen[bytes]
    texts: dict[str, bytearray] = field(default_factory=dict)
    reason: str | None = None
    no_space: bool = False
    panicked: bool = False
    active: float = field(default_factory=time.monotonic)
    written: int = -1


Mask = Callable[[str], str]
"""Takes secrets out of a text: installers log the commands they run."""

Listener = Callable[[str, str], None]
"""Called with (console or syslog, line) for every line the installer prints."""


class Machine:
    """Runs a :class:`Hardware`; made by :func:`machine`."""

    def __init__(
        self,
        running: Running,
        lines: Mapping[str, socket.socket],
        logs: Path,
        listener: Listener,
        mask: Mask,
    ) -> None:
        self.running = running
        self._listener = listener
        self._mask = mask
        self._monitor = lines["monitor"]
        self._messages = Messages()
        self._logs = {name: logs / f"{name}.log" for name in ("console", "syslog")}
        self._buffers = {name: bytearray() for name in self._logs}
        self._logged = dict.fromkeys(self._logs, 0)
        self._selector = selectors.DefaultSelector()
        self._asked = 0.0
        self._recent: deque[str] = deque(maxlen=RECENT_LINES)
        for name, line in lines.items():
            line.setblocking(False)  # noqa: FBT003 - socket's
            self._selector.register(line, selectors.EVENT_READ, name)
        self._say("qmp_capabilities")

    def step(self, seconds: float) -> bool:
        """Take in what happens within ``seconds``; False once the machine has ended."""
        now = time.monotonic()
        if now - self._asked > STATISTICS_SECONDS:
            self._asked = now
            self._say("query-blockstats")
        for key, _events in self._selector.select(seconds):
            line = key.fileobj
            if not isinstance(line, socket.socket):
                continue
            try:
                data = line.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(line)
                continue
            self._take(str(key.data), data)
        if self._selector.get_map():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.running.process.wait(10)
        return False

    def tail(self, name: str, lines: int) -> str:
        """The last lines of the console or the syslog, without terminal control."""
        return self._mask(readable(bytes(self.running.texts.get(name, b"")), lines))

    def flush(self) -> None:
        """Write what came without an end of line to the logs."""
        for name in self._logs:
            self._log(name, bytes(self._buffers[name]))
            self._buffers[name].clear()

    def _take(self, name: str, data: bytes) -> None:
        if name == "monitor":
            for message in self._messages.feed(data):
                self._message(message)
            return
        if self._is_news(name, data):
            self.running.active = time.monotonic()
        text = self.running.texts.setdefault(name, bytearray())
        text += data
        del text[: -(1 << 17)]
        buffer = self._buffers[name]
        buffer += data
        while b"\n" in buffer:
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer[:] = rest
            self._log(name, line + b"\n")
            self._listener(name, clean(line.decode("utf-8", "replace")))
        if len(buffer) > MAX_LINE:
            buffer.clear()

    def _is_news(self, name: str, data: bytes) -> bool:
        """Whether this says more than a clock or a redrawn screen: words not seen of late."""
        text = data.decode("utf-8", "replace").replace("\r", "\n")
        words = {re.sub(r"\d+", "", clean(line)).strip() for line in text.split("\n")}
        news = {f"{name} {word}" for word in words if word}
        fresh = news - set(self._recent)
        self._recent.extend(sorted(fresh))
        return bool(fresh)

    def _log(self, name: str, line: bytes) -> None:
        if line and self._logged[name] < MAX_LOG:
            self._logged[name] += len(line)
            data = self._mask(line.decode("utf-8", "surrogateescape"))
            with self._logs[name].open("ab") as stream:
                stream.write(data.encode("utf-8", "surrogateescape"))

    def _say(self, command: str) -> None:
        with contextlib.suppress(OSError):
            self._monitor.sendall(request(command))

    def _message(self, value: dict[str, Any]) -> None:
        event, data = value.get("event"), value.get("data")
        data = data if isinstance(data, dict) else {}
        if event == "SHUTDOWN":
            self.running.reason = str(data.get("reason", "unknown"))
        elif event == "BLOCK_IO_ERROR" and data.get("nospace"):
            self.running.no_space = True
        elif event == "GUEST_PANICKED":
            self.running.panicked = True
        elif isinstance(value.get("return"), list):
            self._statistics(value["return"])

    def _statistics(self, devices: list[Any]) -> None:
        total = 0
        for device in devices:
            stats = device.get("stats", {}) if isinstance(device, dict) else {}
            total += sum(int(stats.get(key, 0)) for key in ("wr_bytes", "rd_bytes"))
        if total != self.running.written:
            self.running.written = total
            self.running.active = time.monotonic()


@contextlib.contextmanager
def machine(
    hardware: Hardware,
    *,
    scratch: Path,
    logs: Path,
    listener: Listener,
    mask: Mask = lambda text: text,
) -> Iterator[Machine]:
    """Run ``hardware`` for the length of a block; leaving it ends QEMU.

    ``logs`` receives console.log and syslog.log, at most 32 MiB each, what ``mask`` leaves of them,
    and refused.log, what the guest wanted to reach and may not. Raises HostError.
    """
    handed = Handed()
    argv = hardware.argv(handed)
    if hardware.firmware == "uefi":
        firmware, own = require_uefi(), scratch / "firmware-state"
        firmware.new_variables(own)
        argv += firmware.argv(handed.file(own, writable=True))
    reach = Reach(hardware.reach, hardware.alias, _refusals(logs))
    with start(argv, LINES, scratch=scratch, handed=handed, reach=reach) as started:
        running = Machine(Running(started.process), started.lines, logs, listener, mask)
        try:
            yield running
        finally:
            running.flush()


def _refusals(logs: Path) -> Callable[[str], None]:
    def note(line: str) -> None:
        with (logs / "refused.log").open("a") as stream:
            stream.write(line + "\n")

    return note


def clean(text: str) -> str:
    """``text`` without terminal control sequences (ECMA-48) and other control characters."""
    text = re.sub(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[()][A-Za-z0-9]|[=>78])", "", text)
    return "".join(c for c in text if c.isprintable() or c == "\t").rstrip()


def readable(data: bytes, lines: int) -> str:
    """The last ``lines`` lines that say anything."""
    found = [
        clean(line) for line in data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    ]
    return "\n".join([line for line in found if line.strip()][-lines:])


def _subnet(static: Static | None) -> Subnet | None:
    """QEMU's network so that a fixed address has its gateway and name server."""
    if static is None or not static.gateway:
        return None
    network = ipaddress.ip_interface(f"{static.address}/{static.prefix}").network
    if ipaddress.ip_address(static.gateway) not in network:
        raise SpecError("the gateway is outside the address's network", where="nics.0.network")
    inside = [d for d in static.dns if ipaddress.ip_address(d) in network and d != static.gateway]
    return Subnet(network, static.gateway, static.address, inside[0] if inside else "")
