"""Runs inside the lab's dom0: starts one guest after another and brings back what they said.

It imports nothing but Python and its neighbour. The host and it share a directory
(9p, mounted at SHARE): ``jobs/ID.json`` asks for a guest, ``jobs/ID.stop`` ends it (its content is
``up`` or ``down``), ``jobs/ID.again-N`` ends attempt N and starts it anew, ``jobs/end`` ends all;
``out/ID/`` takes the console, logs and finally ``result.json``. A second one, read-only at FILES,
holds kernels and initrds.

Names of guests and paths come from configs nobody vouches for: they are only ever arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import threading
import time
import tty
from pathlib import Path
from typing import Any

from imagekit.proof.dom0.toolstacks import LIBVIRT_LOGS, Libvirt, Xl

SHARE = Path("/run/share")
FILES = Path("/run/files")
LOGS = Path("/var/log/xen")
DHCP_LOG = Path("/run/dnsmasq.log")
QEMU_LOG = LOGS / "qemu-dom0.log"
XL = str(next(Path("/usr/lib").glob("xen-4.*/bin/xl"), "xl"))

MAX_CONSOLE = 16 << 20
MAX_LOG = 1 << 20
LEASE_WAIT = 12.0
RESTARTS = 3
DYING = 5.0
"""Seconds that a domain may still be there after its console has closed."""


def call(
    argv: list[str],
    timeout: float = 60,
    env: dict[str, str] | None = None,
    *,
    merged: bool = False,
) -> tuple[int, str]:
    """Exit status (or -1 after ``timeout`` seconds) and output; ``merged`` with its messages."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.DEVNULL,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as error:
        return -1, (error.stdout or b"").decode("utf-8", "backslashreplace")
    return done.returncode, done.stdout.decode("utf-8", "backslashreplace")


def store_read(path: str) -> str | None:
    """The value of a xenstore key."""
    status, text = call(["xenstore-read", path])
    return text.strip() if status == 0 else None


def domain_id(name: str) -> int | None:
    """The running domain called ``name``."""
    status, text = call([XL, "domid", name])
    return int(text) if status == 0 and text.strip().isdigit() else None


def open_terminal(path: str) -> int:
    """The pseudo terminal ``path`` of dom0, to read all that a console says."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    return fd


class Console:
    """Copies one console of a domain to a file, from its beginning."""

    def __init__(self, fd: int, target: Path) -> None:
        self._fd = fd
        self.target = target
        self.ended = threading.Event()
        threading.Thread(target=self._copy, daemon=True).start()

    def _copy(self) -> None:
        written = self.target.stat().st_size if self.target.exists() else 0
        with self.target.open("ab", buffering=0) as stream:
            while True:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:
                    data = b""
                if not data:
                    break
                if written < MAX_CONSOLE:
                    stream.write(data)
                    written += len(data)
        os.close(self._fd)
        self.ended.set()


class Job:
    """One guest, from its config to its end."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.ident: str = request["id"]
        self.name: str = request["name"]
        self.out = SHARE / "out" / self.ident
        self.config = Path("/run/jobs") / f"{self.ident}.cfg"
        self.stop = SHARE / "jobs" / f"{self.ident}.stop"
        self.result: dict[str, Any] = {"restarts": 0, "attempts": 1}
        self.placed: list[Path] = []
        self.consoles: list[Console] = []
        self.dhcp_before = 0
        self.xl = Xl(XL, call)
        libvirt = request.get("toolstack") == "libvirt"
        self.virsh = Libvirt(self.name, call) if libvirt else None
        self.toolstack = self.virsh or self.xl

    def run(self) -> None:
        """Do it all; whatever goes wrong ends up in the result."""
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            self._place()
            self._guest()
        except Exception as error:
            self.result["error"] = f"{type(error).__name__}: {error}"
        for step in (self._destroy, self._logs, self._clear):
            try:
                step()
            except Exception as error:
                self.result.setdefault("error", f"{type(error).__name__}: {error}")
        part = self.out / "result.part"
        part.write_text(json.dumps(self.result))
        part.rename(self.out / "result.json")

    def _place(self) -> None:
        """Make the paths the config names: block devices for disks, links for files."""
        started = time.monotonic()
        for device in self.request["devices"]:
            path = self._free(device["path"])
            number = self._block_device(device["target"])
            mode = 0o400 if device["readonly"] else 0o600
            os.mknod(path, stat.S_IFBLK | mode, number)
            self.placed.append(path)
        for file in self.request["files"]:
            path = self._free(file["path"])
            path.symlink_to(FILES / file["file"])
            self.placed.append(path)
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_bytes((SHARE / "jobs" / f"{self.ident}.cfg").read_bytes())
        self.result["place_seconds"] = round(time.monotonic() - started, 2)

    def _free(self, name: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(f"the lab itself has a file {path}")
        return path

    def _block_device(self, target: int) -> int:
        """Device number of the disk at SCSI target ``target``, waiting for it to appear."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for entry in Path("/sys/bus/scsi/devices").glob(f"*:0:{target}:0/block/*/dev"):
                major, minor = entry.read_text().split(":")
                return os.makedev(int(major), int(minor))
            time.sleep(0.05)
        raise TimeoutError(f"the disk at target {target} did not appear")

    def _guest(self) -> None:
        while (domid := self._create()) is not None and self._watch(domid):
            self._destroy()
            self.consoles.clear()
            self.result["attempts"] += 1

    def _create(self) -> int | None:
        """Start the guest, with its consoles read; None when that fails."""
        started = time.monotonic()
        status, text = self.toolstack.create(self.config, self.request["create_timeout"])
        (self.out / self.toolstack.log).write_text(text[-MAX_LOG:])
        self.result["create_seconds"] = round(time.monotonic() - started, 2)
        self.result["create_status"] = status
        if status != 0:
            return None
        domid = domain_id(self.name)
        if domid is None:
            self.result["error"] = "the toolstack succeeded and the domain is not there"
            return None
        self._attach(domid)
        # A bootloader may have asked for the guest's address; what follows asks the guest itself.
        self.dhcp_before = DHCP_LOG.stat().st_size
        self.toolstack.unpause(domid)
        (self.out / "started").touch()
        return domid

    def _attach(self, domid: int) -> None:
        """Read the PV console, and for HVM the emulated serial port.

        libvirt's console is the serial port of an HVM guest, and the only one of any other.
        """
        base = f"/local/domain/{domid}"
        for key, name in ((f"{base}/console/tty", "console"), (f"{base}/serial/0/tty", "serial")):
            if name == "serial" and self.request["type"] != "hvm":
                continue
            terminal = store_read(key)
            if terminal and terminal.startswith("/dev/pts/"):
                of_libvirt = self.virsh and (name == "serial") == (self.request["type"] == "hvm")
                fd = self.virsh.console() if self.virsh and of_libvirt else open_terminal(terminal)
                self.consoles.append(Console(fd, self.out / f"{name}.log"))

    def _watch(self, domid: int) -> bool:
        """Wait for the guest's end; True when the host wants it to be started anew."""
        deadline = time.monotonic() + self.request["timeout"]
        checked = time.monotonic()
        while time.monotonic() < deadline:
            if self.stop.exists():
                self._evidence(domid, up=self.stop.read_text().strip() == "up")
                return False
            if (SHARE / "jobs" / f"{self.ident}.again-{self.result['attempts']}").exists():
                return True
            quiet = any(console.ended.is_set() for console in self.consoles)
            if quiet or time.monotonic() - checked > 10:
                checked = time.monotonic()
                now = domain_id(self.name)
                if now != domid:
                    # A guest that restarts is away for a moment.
                    time.sleep(2)
                    now = domain_id(self.name)
                    if now == domid:
                        continue
                    if now is None or self.result["restarts"] >= RESTARTS:
                        self.result["ended"] = "gone" if now is None else "restarts for ever"
                        return False
                    self.result["restarts"] += 1
                    self.consoles.clear()
                    domid = now
                    self._attach(domid)
                elif quiet and self.virsh and self._unheard(domid):
                    return False
            time.sleep(0.2)
        self.result["ended"] = "timeout"
        self._evidence(domid, up=False)
        return False

    def _unheard(self, domid: int) -> bool:
        """Whether virsh console has ended and the guest goes on."""
        time.sleep(DYING)
        if domain_id(self.name) != domid:
            return False
        texts = (console.target.read_text("utf-8", "replace") for console in self.consoles)
        words = " ".join("".join(texts)[-300:].split())
        self.result.update(ended="unheard", error=f"virsh console ended; its last words: {words}")
        self._evidence(domid, up=False)
        return True

    def _evidence(self, domid: int, *, up: bool) -> None:
        if up:
            self._await_leases()
        _status, text = call(["xenstore-ls", "-f", f"/local/domain/{domid}"])
        (self.out / "xenstore.txt").write_text(text[:MAX_LOG])
        text, name = self.toolstack.evidence(domid)
        (self.out / name).write_text(text[:MAX_LOG])
        self.result["leases"] = self._leases()
        if up and self.request["command"]:
            address = next(iter(self.result["leases"].values()), "")
            status, text = call(
                ["sh", "-c", self.request["command"]],
                timeout=self.request["timeout"],
                env={"GUEST_ADDRESS": address, "GUEST_NAME": self.name},
                merged=True,
            )
            self.result["command_status"] = status
            (self.out / "command.log").write_text(text[-MAX_LOG:])

    def _await_leases(self) -> None:
        wanted = set(self.request["macs"])
        deadline = time.monotonic() + LEASE_WAIT
        while wanted - set(self._leases()) and time.monotonic() < deadline:
            time.sleep(0.3)

    def _leases(self) -> dict[str, str]:
        """MAC to address of what dnsmasq gave this guest; the log is emptied before each one."""
        found: dict[str, str] = {}
        with contextlib.suppress(OSError):
            said = DHCP_LOG.read_bytes()[self.dhcp_before :].decode("utf-8", "replace")
            for line in said.splitlines():
                words = line.partition("DHCPACK(xenbr0) ")[2].split()
                if len(words) >= 2 and words[1] in self.request["macs"]:
                    found[words[1]] = words[0]
        return found

    def _destroy(self) -> None:
        for attempt in range(10):
            domid = domain_id(self.name)
            if domid is None:
                return self.toolstack.forget()
            # xl can end what libvirtd cannot.
            (self.toolstack if attempt < 3 else self.xl).destroy(domid)
        raise RuntimeError("the guest could not be destroyed")

    def _logs(self) -> None:
        """Bring back what xl, its scripts, the bootloader and the device model wrote."""
        logs = self.out / "logs"
        logs.mkdir(exist_ok=True)
        kept_open = [p for p in LIBVIRT_LOGS.rglob("*") if p.is_file()] + [DHCP_LOG, QEMU_LOG]
        files = [p for p in LOGS.rglob("*") if p.is_file() and p != QEMU_LOG] + kept_open
        for path in files:
            with contextlib.suppress(OSError):
                # QEMU goes on writing where it was, behind a hole.
                data = path.read_bytes()[-MAX_LOG:].lstrip(b"\0")
                if data:
                    origin = "libvirt-" if LIBVIRT_LOGS in path.parents else ""
                    (logs / f"{origin}{path.name[-200:]}").write_bytes(data)
                if path in kept_open:
                    os.truncate(path, 0)
                else:
                    path.unlink()

    def _clear(self) -> None:
        for path in self.placed:
            path.unlink(missing_ok=True)


def next_job(done: set[str]) -> Job | None:
    """The first request that was not worked on yet."""
    for path in sorted((SHARE / "jobs").glob("*.json")):
        if path.stem not in done:
            done.add(path.stem)
            return Job(json.loads(path.read_text()))
    return None


def wait_for_host() -> None:
    """Say that dom0 is up and wait; the machine may be saved here and go on days later."""
    with open("/dev/hvc0", "r+b", buffering=0) as console:  # noqa: PTH123 - unbuffered device
        tty.setraw(console.fileno())
        console.write(b"\nLAB-READY\n")
        line = b""
        while not line.startswith(b"go "):
            line = b""
            while not line.endswith((b"\n", b"\r")):
                line += console.read(1)
    time.clock_settime(time.CLOCK_REALTIME, float(line.split()[1]))
    for tag, path, option in (("share", SHARE, "rw"), ("files", FILES, "ro")):
        path.mkdir(exist_ok=True)
        options = f"trans=virtio,version=9p2000.L,msize=131072,{option}"
        call(["mount", "-t", "9p", "-o", options, tag, str(path)])


def main() -> None:
    """Work until the host says that it is over."""
    wait_for_host()
    www = FILES / "www"
    if www.is_dir():
        call(["mount", "--bind", str(www), "/srv/lab"])
    # It stays in the directory that it finds there now.
    call(["busybox", "httpd", "-p", "198.18.0.1:80", "-h", "/srv/lab"])
    (SHARE / "awake").touch()
    done: set[str] = set()
    while not (SHARE / "jobs/end").exists():
        job = next_job(done)
        if job is None:
            time.sleep(0.1)
        else:
            job.run()
    shutil.copyfile("/proc/uptime", SHARE / "uptime")


if __name__ == "__main__":
    main()
