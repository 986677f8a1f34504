"""The network of a sandbox: outward only.

A network namespace of its own is joined to the outside by slirp4netns(1): a program of the host
that speaks TCP and UDP over IPv4 for it. The host's loopback and its abstract unix sockets
(unix(7)) belong to the host's network namespace and are out of reach. What the operator's settings
name on the loopback (a mirror, a proxy, the resolver) is let through port by port by
``imagekit.host.sandbox.gate_child``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import astuple, dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import IO, Literal
from urllib.parse import urlsplit

from imagekit.errors import HostError
from imagekit.host import tools, userns
from imagekit.host.run import child_argv, spawn
from imagekit.host.sandbox import means

SHIPS = ("gate_child.py", "../syscalls.py")
GATE = "imagekit.host.sandbox.gate_child"
NETWORK = "240.0.2.0/24"
"""Addresses inside. Reserved ones (RFC 1112, section 4), so that no real host is hidden by them."""
MTU = 65520
"""Bytes; the largest that slirp4netns(1) recommends, for speed."""
PORTS = {"http": 80, "https": 443, "ftp": 21}
DNS_PORT = 53
Protocol = Literal["tcp", "udp"]
PROTOCOLS: tuple[Protocol, ...] = ("udp", "tcp")
TUN = Path("/dev/net/tun")
_LET_THROUGH: ContextVar[tuple[Forward, ...]] = ContextVar("_LET_THROUGH", default=())
"""Of :func:`let_through`."""


@dataclass(frozen=True)
class Forward:
    """One port of the host's loopback that a sandbox reaches, by the same address and port."""

    protocol: Protocol
    address: str
    port: int


def loopback_forwards(urls: Iterable[str], hosts: Path = Path("/etc/hosts")) -> tuple[Forward, ...]:
    """What of ``urls`` lies on the host's own loopback: by address, as localhost, or by ``hosts``.

    DNS is not asked: a network that answers 127.0.0.1 must not open a port of the host.
    """
    found: list[Forward] = []
    for url in urls:
        parts = urlsplit(url)
        with contextlib.suppress(ValueError):  # a port that is none: nothing will be reached there
            port = PORTS.get(parts.scheme) if parts.port is None else parts.port
            if parts.hostname and port:
                found += [Forward("tcp", a, port) for a in _loopback(parts.hostname, hosts)]
    return tuple(dict.fromkeys(found))


def _loopback(name: str, hosts: Path) -> list[str]:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name)
        if address.version == 6 and address.ipv4_mapped:
            address = address.ipv4_mapped
        if address.is_unspecified:  # Linux connects to the loopback then (ip(7))
            return ["127.0.0.1"] if address.version == 4 else ["::1"]
        return [str(address)] if address.is_loopback else []
    if name == "localhost" or name.endswith(".localhost"):
        return ["127.0.0.1", "::1"]
    found = []
    for line in _lines(hosts):
        address_text, *names = line.split("#")[0].split() or [""]
        with contextlib.suppress(ValueError):
            if (
                name in (n.lower() for n in names)
                and ipaddress.ip_address(address_text).is_loopback
            ):
                found.append(address_text)
    return found


def resolver_forwards(resolv_conf: Path = Path("/etc/resolv.conf")) -> tuple[Forward, ...]:
    """The name servers of resolv.conf(5) that are on the host's own loopback."""
    found: list[Forward] = []
    for line in _lines(resolv_conf):
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                if ipaddress.ip_address(words[1]).is_loopback:
                    found += [
                        Forward("udp", words[1], DNS_PORT),
                        Forward("tcp", words[1], DNS_PORT),
                    ]
    return tuple(dict.fromkeys(found))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


@dataclass(frozen=True)
class Connection:
    """Open descriptors of a network namespace and of the user namespace that owns it.

    ``user`` is None where root's own owns it.
    """

    net: int
    user: int | None


@contextlib.contextmanager
def let_through(forwards: Sequence[Forward]) -> Iterator[None]:
    """Let ``forwards`` into every :func:`connected` of this thread for the length of a block."""
    token = _LET_THROUGH.set((*_LET_THROUGH.get(), *forwards))
    try:
        yield
    finally:
        _LET_THROUGH.reset(token)


@contextlib.contextmanager
def connected() -> Iterator[Connection | None]:
    """A new network that reaches outward only, for the length of a block.

    The host's resolver and :func:`let_through` are let in. Where slirp4netns or /dev/net/tun is
    missing or does not work: None, for the host's own network, if that is allowed; else HostError.
    """
    with contextlib.ExitStack() as stack:
        made = None
        try:
            made = _made(stack)
        except HostError as error:
            stack.close()
            means.do_without(means.NETWORK, error.what, error.hint or "imagekit doctor tells more")
        yield made


def no_tunnel() -> tuple[str, str] | None:
    """Why this user cannot have a network interface for a sandbox, and what to do; or None."""
    if os.access(TUN, os.R_OK | os.W_OK):
        return None
    why = f"a sandbox with a network needs {TUN}, and this user cannot open it"
    return why, f"as root: modprobe tun; chmod 666 {TUN}"


def _made(stack: contextlib.ExitStack) -> Connection:
    problem = no_tunnel()
    if problem is not None:
        raise HostError(problem[0], hint=problem[1])
    pid = stack.enter_context(_holder())
    stack.enter_context(_slirp(pid))
    stack.enter_context(_gate(pid, (*_LET_THROUGH.get(), *resolver_forwards())))
    found = []
    for name in ("net", "user")[: 1 if os.geteuid() == 0 else 2]:
        opened = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, opened)
        found.append(opened)
    return Connection(found[0], found[1] if len(found) > 1 else None)


@contextlib.contextmanager
def _holder() -> Iterator[int]:
    """The id of a process in new namespaces, which ends with the block."""
    user = userns.prefix()[1:-1]
    with spawn(["unshare", *user, "--net", "--", "cat"], stdin=True) as child:
        assert child.stdin is not None and child.stdout is not None  # noqa: S101 - pipes
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(b"\n")
            child.stdin.flush()
        if child.stdout.read(1) != b"\n":
            raise HostError(f"the network of a sandbox cannot be made: {_said(child)}")
        yield child.pid


def _said(child: Popen[bytes]) -> str:
    """The last line on standard error of a child that has ended."""
    assert child.stderr is not None  # noqa: S101 - a pipe by default
    said = child.stderr.read(4096).decode("utf-8", "replace").strip()
    return said.rpartition("\n")[2] or "it ended"


@contextlib.contextmanager
def _slirp(pid: int) -> Iterator[None]:
    argv = [str(tools.require("slirp4netns")), "--configure", f"--mtu={MTU}", f"--cidr={NETWORK}"]
    # Its name server is the host's, at every port: with one on the loopback, all of the loopback.
    argv += ["--disable-host-loopback", "--disable-dns", "--enable-sandbox", "--enable-seccomp"]
    # By its id, 1.2.0 enters the user namespace for its own sandbox too, by a path it does not.
    where = ["--netns-type=path", f"/proc/{pid}/ns/net"] if os.geteuid() == 0 else [str(pid)]
    if os.geteuid() == 0:
        # For its sandbox it unmounts all it had, in a mount namespace of its own of which it makes
        # / alone private (sandbox.c, 1.2.0): what lies below the host's shared mounts, such as the
        # named networks of ip-netns(8) in /run/netns, would be unmounted on the host.
        argv = ["unshare", "--mount", "--propagation=private", "--", *argv]
    ready, says = os.pipe()
    with tempfile.TemporaryFile() as log, os.fdopen(ready, "rb") as stream:
        argv += [f"--ready-fd={says}", *where, "tap0"]
        with contextlib.ExitStack() as stack:
            try:
                child = stack.enter_context(
                    spawn(argv, stdout=DEVNULL, stderr=log, pass_fds=(says,))
                )
            finally:
                os.close(says)  # or the end of slirp4netns would not be seen
            if not stream.read(1):
                child.wait()
                raise HostError(
                    f"slirp4netns cannot make the network of a sandbox: {_last(log)}",
                )
            yield


def _last(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it ended"


@contextlib.contextmanager
def _gate(pid: int, forwards: Sequence[Forward]) -> Iterator[None]:
    job = [pid, *(astuple(f) for f in dict.fromkeys(forwards))]
    with spawn(child_argv(GATE), stdin=True) as child:
        _start_gate(child, job)
        yield


def _start_gate(child: Popen[bytes], job: object) -> None:
    assert child.stdin is not None  # noqa: S101 - asked for
    assert child.stdout is not None  # noqa: S101 - a pipe by default
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()
    if child.stdout.readline() != b"ready\n":
        raise HostError(f"ports of this host cannot be let into a sandbox: {_said(child)}")
