"""Domain XML as the real libvirtd understands it, by its real Xen driver, without a hypervisor.

The daemon runs in mounts of its own, with sockets and state of its own, and with no driver but that
for libxl. A preloaded library answers what would reach Xen, and writes the ``libxl_domain_config``
that libvirt would create as JSON: the shape in which ``xl_reader`` gives xl's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from lxml import etree
from oracles.xl_reader import Json

SOURCE = Path(__file__).with_name("libvirt_offline.c")
DRIVER = "libvirt/connection-driver/libvirt_driver_libxl.so"

_ROOM = """\
set -eu
for place in /run /etc/libvirt /var/lib /var/log /var/cache /usr/libexec; do
    mount -t tmpfs none "$place"
done
# The default emulator of Xen's driver, which only asks it for its help.
ln -s /bin/true /usr/libexec/xen-qemu-system-i386
mkdir "$LIBXL_JSON/dev"
mount -t tmpfs none "$LIBXL_JSON/dev"
mkdir "$LIBXL_JSON/dev/xen"
# The driver loads where there is a xenstored.
for name in null zero full random urandom xen/xenstored; do
    : >"$LIBXL_JSON/dev/$name"
    [ ! -c "/dev/$name" ] || mount --bind "/dev/$name" "$LIBXL_JSON/dev/$name"
done
mount --move "$LIBXL_JSON/dev" /dev
export LD_PRELOAD="$LIBXL_JSON/libvirt_offline.so"
exec libvirtd --timeout 120 --config "$LIBXL_JSON/libvirtd.conf" --pid-file "$LIBXL_JSON/pid"
"""
_CONFIG = """\
unix_sock_dir = "{root}"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
log_outputs = "3:file:{root}/log"
"""


def _driver() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"*/{DRIVER}"))), None)


def missing() -> str | None:
    """What keeps this oracle from working here, or None."""
    for program in ("gcc", "libvirtd", "virsh"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"missing: {program} (gcc, libvirt-daemon, libvirt-clients of Debian)"
    if _driver() is None:
        return "missing: libvirt's Xen driver (Debian package libvirt-daemon-driver-xen)"
    if not Path("/usr/include/libxl.h").exists():
        return "missing: libxl.h (Debian package libxen-dev)"
    if os.geteuid() != 0:
        return "missing: root, for the mounts of a libvirtd"
    return None


@dataclass(frozen=True)
class Reading:
    """The JSON of what libvirt would create; empty, with what it said, when it refuses."""

    config: Json
    said: str


@dataclass(frozen=True)
class Daemon:
    """A libvirtd whose files are in ``root``."""

    root: Path

    def read(self, text: str) -> Reading:
        """Define and start the domain of ``text``, and forget it."""
        identity = str(UUID(etree.fromstring(text.encode()).findtext("uuid")))
        (self.root / "domain.xml").write_text(text)
        # The start fails in every case: what would create the domain only tells what it got.
        steps = (f"define --validate {self.root}/domain.xml", f"start {identity}")
        done = self._virsh("; ".join([*steps, f"undefine {identity}"]))
        made = self.root / f"{identity}.json"
        if not made.exists():
            return Reading({}, done.stderr)
        assert done.returncode == 0, done.stderr
        config = json.loads(made.read_bytes())
        made.unlink()
        return Reading(config, "")

    @property
    def uri(self) -> str:
        """Where clients find it."""
        return f"xen:///system?socket={self.root}/libvirt-sock"

    def _virsh(self, commands: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["virsh", "-q", "-c", self.uri, commands],
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.root)},
            capture_output=True,
            text=True,
            timeout=60,
        )


@contextmanager
def running() -> Iterator[Daemon]:
    """A libvirtd for Xen, ended with its files when the block ends."""
    with tempfile.TemporaryDirectory(prefix="libvirt-oracle-") as directory:
        root = Path(directory)
        library = root / "libvirt_offline.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, SOURCE, "-lxenlight"], check=True)
        driver = _driver()
        assert driver is not None
        (root / "drivers").mkdir()
        (root / "drivers" / driver.name).symlink_to(driver)
        (root / "libvirtd.conf").write_text(_CONFIG.format(root=root))
        with (root / "out").open("wb") as out, _readiness(root / "notify") as ready:
            child = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "sh", "-c", _ROOM],
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "LIBXL_JSON": directory,
                    "LIBVIRT_DRIVER_DIR": str(root / "drivers"),
                    "NOTIFY_SOCKET": str(root / "notify"),
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
            try:
                _wait(ready, root)
                yield Daemon(root)
            finally:
                child.kill()
                child.wait()


@contextmanager
def _readiness(path: Path) -> Iterator[socket.socket]:
    """A socket for what a service tells systemd (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(path))
        ready.settimeout(60)
        yield ready


def _wait(ready: socket.socket, root: Path) -> None:
    try:
        said = ready.recv(4096)
    except TimeoutError:
        said = b""
    logs = [path.read_text() for path in (root / "out", root / "log") if path.exists()]
    assert b"READY=1" in said, "\n".join(logs)[-2000:]
