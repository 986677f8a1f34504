"""Serving a published tree in the foreground: dnsmasq for DHCP and TFTP, our own HTTP server."""

from __future__ import annotations

import fcntl
import ipaddress
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from imagekit.errors import HostError, SpecError, ToolError
from imagekit.host.run import spawn
from imagekit.netboot import serve_config, tree
from imagekit.netboot.answer_server import AnswerServer

SIOCGIFADDR, SIOCGIFNETMASK = 0x8915, 0x891B
POLL_SECONDS = 1.0


def interface_network(interface: str) -> tuple[str, str]:
    """The IPv4 address of ``interface`` and its network as ADDRESS/BITS (netdevice(7)).

    Raises SpecError when there is no such interface, or it has no IPv4 address.
    """
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found = [
                ipaddress.IPv4Address(fcntl.ioctl(sock, code, request)[20:24])
                for code in (SIOCGIFADDR, SIOCGIFNETMASK)
            ]
        except OSError as error:
            raise SpecError(
                f"no IPv4 address on {interface}: {error.strerror}",
                hint="name the interface the guests' bridge is on, with its address configured",
            ) from error
    return str(found[0]), f"{found[0]}/{found[1]}"


def run(
    service: serve_config.Service,
    log: Callable[[str], None],
    *,
    stop: threading.Event | None = None,
) -> None:
    """Serve until interrupted (or ``stop`` is set).

    dnsmasq learns of guests published meanwhile within a second. Raises ToolError when dnsmasq
    ends by itself, HostError when a port is taken.
    """
    with ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imagekit-serve-")))
        # dnsmasq reads the file of guests again after it has given up root.
        private.chmod(0o711)
        hosts, config = private / "hosts", private / "dnsmasq.conf"
        hosts.write_text(serve_config.dnsmasq_hosts(tree.load(service.root)))
        config.write_text(serve_config.dnsmasq_config(service, hosts))
        server = _start_http(service, log, stack)
        child = stack.enter_context(
            spawn(
                [
                    "dnsmasq",
                    "--keep-in-foreground",
                    f"--conf-file={config}",
                    "--log-facility=-",
                    "--pid-file=",
                    f"--dhcp-leasefile={private / 'leases'}",
                ],
                stdout=sys.stderr.fileno(),
                stderr=sys.stderr.fileno(),
            )
        )
        log(f"serving {service.root} on {service.interface}, HTTP port {server.server_port}")
        seen = _stamp(service.root)
        while stop is None or not stop.is_set():
            if child.poll() is not None:
                raise ToolError(
                    f"dnsmasq ended with status {child.returncode}",
                    hint="its reason is in the log above: another DHCP or TFTP server on this "
                    "host, or a tree that the user dnsmasq cannot reach",
                    returncode=child.returncode,
                )
            if (now := _stamp(service.root)) != seen:
                seen = now
                hosts.write_text(serve_config.dnsmasq_hosts(tree.load(service.root)))
                child.send_signal(signal.SIGHUP)
            time.sleep(POLL_SECONDS)


def _start_http(
    service: serve_config.Service, log: Callable[[str], None], stack: ExitStack
) -> AnswerServer:
    try:
        server = AnswerServer(service.root, (service.address, service.http_port), log)
    except OSError as error:
        where = f"{service.address}:{service.http_port}"
        raise HostError(f"cannot serve HTTP: {error.strerror}", where=where) from error
    stack.callback(server.server_close)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    return server


def _stamp(root: Path) -> tuple[int, int]:
    try:
        status = (root / tree.STATE).stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino
