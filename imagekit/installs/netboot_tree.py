"""The tree a guest installs itself from over the network, and the kernel arguments it starts with.

Sources: the Debian installation guide, "Boot parameters" and "Preseeding" (auto, url, hostname,
netcfg/*), Anaconda's boot options (inst.ks, inst.repo; ks and method before RHEL 7).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from imagekit.answers.context import Static, static_network, target_of
from imagekit.errors import HostError, SpecError
from imagekit.netboot.answer_server import AnswerServer
from imagekit.netboot.netguest import NetbootGuest, check_arguments
from imagekit.spec.derived import mac_of
from imagekit.spec.install import Netboot
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Spec
from imagekit.vm.card import QEMU_HOST

LOOPBACK = "127.0.0.1"
MAX_LOG = 1 << 20
ANSWERS_NAMES = {"preseed": "preseed.cfg", "kickstart": "ks.cfg"}


def arguments(spec: Spec, install: Netboot, consoles: str) -> str:
    """The installer's kernel arguments, with ``{answers}`` and ``{done}`` for publishing.

    Raises SpecError for what boot loaders do not pass on.
    """
    if install.answers == "preseed":
        words = ["auto=true", "priority=critical", "DEBIAN_FRONTEND=text", "TERM=dumb"]
        # The network is set up before the answers can be fetched, so what netcfg asks stands here.
        words += ["url={answers}", "netcfg/choose_interface=auto", f"hostname={spec.hostname}"]
        words += [f"domain={spec.identity.domain}"] if spec.identity.domain else []
        words += _netcfg(static_network(spec))
    else:
        os_ = spec.os
        name = target_of("kickstart", install.release, os_.suite, os_.distribution).name
        old = name in ("RHEL5", "RHEL6")
        words = ["ks={answers}", "ksdevice=bootif"] if old else ["inst.ks={answers}", "inst.text"]
        words += [] if old else ["ip=dhcp"]
        if os_.mirror:
            words.append(f"{'method' if old else 'inst.repo'}={os_.mirror}")
    words += [*install.args.split(), *consoles.split(), "imagekit.done={done}"]
    line = " ".join(words)
    check_arguments(line, "install.args")
    return line


def _netcfg(static: Static | None) -> list[str]:
    if static is None:
        return []
    found = {
        "disable_autoconfig": "true",
        "get_ipaddress": static.address,
        "get_netmask": static.netmask,
        "get_gateway": static.gateway,
        "get_nameservers": static.dns[0] if static.dns else "",
        "confirm_static": "true",
    }
    return [f"netcfg/{key}={value}" for key, value in found.items() if value]


def netboot_guest(
    spec: Spec, install: Netboot, kernel: Path, initrd: Path, answers: str, consoles: str
) -> NetbootGuest:
    """The guest as publishing wants it."""
    return NetbootGuest(
        name=spec.name,
        mac=mac_of(spec, 0),
        kernel=kernel,
        initrd=initrd,
        args=arguments(spec, install, consoles),
        answers=answers,
        answers_name=ANSWERS_NAMES[install.answers],
        mode="install",
    )


def host_address(file: SpecFile) -> str:
    """The address by which the guest reaches this host while it installs in QEMU.

    Raises SpecError for a fixed address that QEMU's network cannot serve PXE and answers to.
    """
    static = static_network(file.spec)
    if static is None:
        return QEMU_HOST
    if static.version != 4 or not static.gateway:
        raise SpecError(
            "PXE in QEMU's network needs an IPv4 address with a gateway, or DHCP",
            where=file.where("nics", 0, "network"),
        )
    return static.gateway


@contextlib.contextmanager
def serving(root: Path, log: Path) -> Iterator[int]:
    """Serve the tree at ``root`` over HTTP on a free port of loopback; gives the port.

    ``log`` gets a line for each request, at most 1 MiB. Raises HostError.
    """
    lock = threading.Lock()

    def note(line: str) -> None:
        with lock, log.open("a") as stream:
            if stream.tell() < MAX_LOG:
                stream.write(line + "\n")

    try:
        server = AnswerServer(root, (LOOPBACK, 0), note)
    except OSError as error:
        raise HostError(f"cannot serve HTTP on {LOOPBACK}: {error.strerror}") from error
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
