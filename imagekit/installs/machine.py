"""The QEMU that an installer runs in, driven by two serial ports and QEMU's machine protocol.

Sources: QEMU docs/interop/qmp-spec.txt, qapi/run-state.json (SHUTDOWN and its reasons),
qapi/block-core.json (BLOCK_IO_ERROR, query-blockstats).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import selectors
import shutil
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagekit.answers.context import Static
from imagekit.errors import HostError, SpecError
from imagekit.host.qmp import Messages, request
from imagekit.host.run import spawn
from imagekit.host.sockets import roomy_pair

QEMU = "qemu-system-x86_64"
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS.fd")
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
MAX_LOG = 32 << 20
MAX_LINE = 8 << 20
STATISTICS_SECONDS = 5.0
RECENT_LINES = 200


@dataclass(frozen=True)
class Network:
    """What the PXE ROM of the first card boots: ``program``, a file name below ``tftp``."""

    tftp: Path
    program: str


@dataclass(frozen=True)
class Hardware:
    """The machine: memory in MiB, ``firmware`` bios or uefi, ``bus`` of the disk virtio or ide.

    ``media`` is what it boots before the disk: the CD, or the network. ``static`` makes QEMU's
    network the one that the guest's fixed address is in.
    """

    media: Path | Network
    disk: Path
    memory: int
    kvm: bool
    firmware: str = "bios"
    mac: str = "52:54:00:12:34:56"
    bus: str = "virtio"
    static: Static | None = None

    def argv(self, fds: dict[str, int], firmware_state: Path) -> list[str]:
        """QEMU's command line; ``fds`` are the sockets of console, syslog and monitor."""
        argv = [QEMU, "-accel", "kvm" if self.kvm else "tcg,tb-size=512"]
        argv += ["-cpu", "host" if self.kvm else "max", "-smp", "1", "-m", str(self.memory)]
        argv += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        argv += ["-sandbox", SANDBOX, "-device", "VGA", "-device", "virtio-rng-pci"]
        boot, card_options = "", ",romfile="
        if isinstance(self.media, Network):
            # SeaBIOS then says on the serial port too what it and the PXE ROM say on the screen.
            argv += ["-machine", "pc,graphics=off"]
            boot = f",tftp={_value(self.media.tftp)},bootfile={self.media.program}"
            card_options = ",bootindex=1"
        else:
            argv += ["-drive", f"file={_value(self.media)},format=raw,if=none,id=cd,readonly=on"]
            argv += ["-device", "ide-cd,drive=cd,bus=ide.1,bootindex=1"]
        disk = f"file={_value(self.disk)},format=raw,if=none,id=disk,cache=unsafe"
        argv += ["-drive", f"{disk},discard=unmap,detect-zeroes=unmap,werror=stop,rerror=stop"]
        device = "virtio-blk-pci" if self.bus == "virtio" else "ide-hd,bus=ide.0"
        argv += ["-device", f"{device},drive=disk,bootindex=2"]
        argv += ["-netdev", f"user,id=net{_network(self.static)}{boot}"]
        card = "virtio-net-pci" if self.bus == "virtio" else "e1000"
        argv += ["-device", f"{card},netdev=net,mac={self.mac}{card_options}"]
        if self.firmware == "uefi":
            code = f"if=pflash,format=raw,readonly=on,file={_value(OVMF_CODE)}"
            argv += ["-drive", code]
            argv += ["-drive", f"if=pflash,format=raw,file={_value(firmware_state)}"]
        for name in ("console", "syslog", "monitor"):
            argv += ["-chardev", f"socket,id={name},fd={fds[name]}"]
        argv += ["-serial", "chardev:console", "-serial", "chardev:syslog"]
        return [*argv, "-mon", "chardev=monitor,mode=control"]


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
        lines: dict[str, socket.socket],
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
            line.setblocking(False)
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

    ``logs`` receives console.log and syslog.log, at most 32 MiB each, what ``mask`` leaves of them.
    Raises HostError.
    """
    state = scratch / "firmware-state"
    if hardware.firmware == "uefi":
        if not OVMF_CODE.is_file():
            raise HostError("UEFI firmware for QEMU is not here", hint="apt-get install ovmf")
        shutil.copyfile(OVMF_VARS, state)
    with contextlib.ExitStack() as stack:
        ours: dict[str, socket.socket] = {}
        theirs: dict[str, socket.socket] = {}
        for name in ("console", "syslog", "monitor"):
            ours[name], theirs[name] = roomy_pair()
            stack.callback(ours[name].close)
            stack.callback(theirs[name].close)
        fds = {name: end.fileno() for name, end in theirs.items()}
        child = stack.enter_context(
            spawn(
                hardware.argv(fds, state),
                env={"TMPDIR": str(scratch)},
                pass_fds=list(fds.values()),
                stdout=subprocess.DEVNULL,
            )
        )
        for end in theirs.values():
            end.close()
        running = Machine(Running(child), ours, logs, listener, mask)
        stack.callback(running.flush)
        yield running


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


def _network(static: Static | None) -> str:
    """Options of QEMU's user network so that a fixed address has its gateway and name server."""
    if static is None or not static.gateway:
        return ""
    network = ipaddress.ip_interface(f"{static.address}/{static.prefix}").network
    if ipaddress.ip_address(static.gateway) not in network:
        raise SpecError("the gateway is outside the address's network", where="nics.0.network")
    if static.version == 6:
        return f",ipv6-net={network},ipv6-host={static.gateway}"
    inside = [d for d in static.dns if ipaddress.ip_address(d) in network and d != static.gateway]
    options = f",net={network},host={static.gateway},dhcpstart={static.address}"
    return options + (f",dns={inside[0]}" if inside else "")


def _value(path: Path) -> str:
    return str(path).replace(",", ",,")
