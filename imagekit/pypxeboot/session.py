"""One netboot on a guest's behalf: DHCP, the config file, kernel and initrd.

This runs without privileges (``imagekit.pypxeboot.confine``): it has a packet socket and two open
files and no right to anything else, for everything it reads comes unauthenticated from a network.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imagekit.errors import DownloadError, ImageError, SpecError
from imagekit.pypxeboot import dhcp, dhcp_client, ipxe, pxelinux
from imagekit.pypxeboot.entry import BootEntry, LocalBoot
from imagekit.pypxeboot.fetch import Fetcher
from imagekit.pypxeboot.location import Location, from_url, is_url, server_root
from imagekit.pypxeboot.profile import MIB, Settings
from imagekit.pypxeboot.transfer import Deadline, NotFoundError

if TYPE_CHECKING:
    import ssl

DHCP_SECONDS = 64.0


@dataclass(frozen=True)
class Overrides:
    """The toolstack's ``--kernel``, ``--ramdisk`` and ``--args``."""

    kernel: str = ""
    ramdisk: str = ""
    args: str = ""


@dataclass(frozen=True)
class Files:
    """Open descriptors, readable and writable, that kernel and initrd go into."""

    kernel: int
    initrd: int


@dataclass(frozen=True)
class Outcome:
    """``local``: boot the guest's disk. Else the files are filled; ``args`` is the command line."""

    local: bool
    why: str
    args: str = ""
    has_initrd: bool = False


@dataclass(frozen=True)
class Network:
    """What a session talks through; ``wire`` is None when no DHCP is wanted."""

    wire: dhcp_client.Wire | None
    tls: ssl.SSLContext | None = None


def run(
    settings: Settings,
    overrides: Overrides,
    network: Network,
    files: Files,
    say: Callable[[str], None],
) -> Outcome:
    """Do it all within ``settings.timeout`` seconds; raises an ImagekitError for any failure."""
    deadline = Deadline(settings.timeout)
    lease = _lease(settings, network.wire, deadline)
    say(f"address {lease.address or 'not asked for'}, boot server {lease.boot_server or 'by URL'}")
    base = _base(settings, lease)
    # The operator's URLs and those in the DHCP answer name boot servers; those in configs do not.
    named = [url for url in (lease.bootfile, lease.path_prefix) if is_url(url)]
    hosts = {lease.boot_server, base.host, *(from_url(url).host for url in named)}
    fetcher = Fetcher({*hosts, *settings.allow_host}, deadline, network.tls)
    client = _Session(settings, lease, base, fetcher, say)
    entry = client.entry()
    if isinstance(entry, LocalBoot):
        say(f"{entry.why}: booting the guest's own disk")
        return Outcome(local=True, why=entry.why)
    entry = replace(
        entry,
        kernel=overrides.kernel or entry.kernel,
        initrds=(overrides.ramdisk,) if overrides.ramdisk else entry.initrds,
    )
    client.fetch_files(entry, files)
    args = f"{entry.args} {overrides.args}".strip()
    return Outcome(local=False, why=entry.label, args=args, has_initrd=bool(entry.initrds))


def _lease(settings: Settings, wire: dhcp_client.Wire | None, deadline: Deadline) -> dhcp.Lease:
    known = settings.next_server
    if wire is None:
        return dhcp.Lease(settings.ip, "", known, "")
    client = dhcp.Client(
        settings.mac_bytes,
        settings.uuid_value,
        settings.user_class or ("iPXE" if settings.loader == "ipxe" else None),
    )
    policy = dhcp_client.Policy(
        servers=settings.dhcp_server,
        offer_only=settings.dhcp == "offer",
        need_boot_server=not (known or settings.http),
    )
    lease = dhcp_client.acquire(wire, client, policy, deadline.within(DHCP_SECONDS))
    return replace(lease, boot_server=known) if known else lease


def _base(settings: Settings, lease: dhcp.Lease) -> Location:
    """The directory that names in configs are relative to."""
    if settings.http:
        return from_url(settings.http.rstrip("/") + "/")
    if settings.prefix:
        return server_root(lease.boot_server, settings.prefix)
    if lease.path_prefix:
        return server_root(lease.boot_server, lease.path_prefix)
    if is_url(lease.bootfile):
        return from_url(lease.bootfile).directory()
    return server_root(lease.boot_server, lease.bootfile[: lease.bootfile.rfind("/") + 1])


class _Session:
    def __init__(
        self,
        settings: Settings,
        lease: dhcp.Lease,
        base: Location,
        fetcher: Fetcher,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._lease = lease
        self._base = base
        self._fetcher = fetcher
        self._say = say

    def entry(self) -> BootEntry | LocalBoot:
        """What the server says this guest boots now; asked anew on every boot."""
        return self._from_ipxe() if self._is_ipxe() else self._from_pxelinux()

    def _is_ipxe(self) -> bool:
        if self._settings.loader != "auto":
            return self._settings.loader == "ipxe"
        name = self._settings.config or self._lease.bootfile
        return name.split("?")[0].endswith(".ipxe")

    def _from_pxelinux(self) -> BootEntry | LocalBoot:
        settings, lease = self._settings, self._lease
        if settings.config:
            names = [settings.config]
        else:
            names = pxelinux.search_order(
                settings.mac_bytes,
                settings.ip or lease.address,
                settings.uuid_value,
                lease.config_file,
            )
        name, text = self._first(names)
        self._say(f"config {name}")
        config = pxelinux.parse(text, self._load, where=name)
        entry = pxelinux.choose(config, settings.label)
        if isinstance(entry, LocalBoot):
            return entry
        ip = (lease.address, lease.boot_server, lease.router, lease.netmask)
        return pxelinux.with_system_appends(
            entry, mac=settings.mac_bytes, ip=ip, uuid=settings.uuid_value
        )

    def _first(self, names: list[str]) -> tuple[str, str]:
        for name in names:
            try:
                text = self._fetcher.text(self._base.resolve(name), pxelinux.MAX_CONFIG)
            except NotFoundError:
                continue
            return name, text
        raise DownloadError(
            "the boot server has no config for this guest",
            where=self._base.url,
            hint=f"looked for {', '.join(names[:3])}"
            + (f" ... {names[-1]}" if len(names) > 3 else ""),
        )

    def _load(self, name: str) -> str:
        return self._fetcher.text(self._base.resolve(name), pxelinux.MAX_CONFIG)

    def _from_ipxe(self) -> BootEntry | LocalBoot:
        settings, lease = self._settings, self._lease
        name = settings.config or lease.bootfile
        if not name:
            raise SpecError("no iPXE script is named: --config, or the boot file of DHCP")
        root = server_root(lease.boot_server, "") if not settings.http else self._base
        script = self._base.resolve(name) if settings.config else root.resolve(name)
        self._say(f"script {script.url}")
        known = ipxe.machine_settings(
            mac=settings.mac_bytes,
            address=settings.ip or lease.address,
            netmask=lease.netmask,
            router=lease.router,
            server=lease.boot_server,
            uuid=settings.uuid.lower(),
            hostname=lease.hostname,
            filename=name,
        )
        # Names are relative to the script they stand in.
        self._base = script.directory()
        text = self._fetcher.text(script, ipxe.MAX_SCRIPT)
        return ipxe.run(text, known, self._load_script, where=script.url)

    def _load_script(self, uri: str) -> str:
        script = self._base.resolve(uri)
        self._base = script.directory()
        return self._fetcher.text(script, ipxe.MAX_SCRIPT)

    def fetch_files(self, entry: BootEntry, files: Files) -> None:
        """Fill both files and look at the kernel; raises ImageError for what is none."""
        kernel = self._base.resolve(entry.kernel)
        self._say(f"kernel {kernel.url}")
        receiver = self._fetcher.receiver(kernel, self._settings.kernel_limit * MIB, files.kernel)
        self._fetcher.fetch(kernel, receiver)
        check_kernel(files.kernel, kernel.url)
        if not entry.initrds:
            return
        first = self._base.resolve(entry.initrds[0])
        receiver = self._fetcher.receiver(first, self._settings.initrd_limit * MIB, files.initrd)
        for name in entry.initrds:
            part = self._base.resolve(name)
            self._say(f"initrd {part.url}")
            # Linux looks for the next archive at a multiple of four bytes (init/initramfs.c).
            receiver.pad(4)
            before = receiver.size
            self._fetcher.fetch(part, receiver)
            if receiver.size == before:
                raise ImageError("the initrd is empty", where=part.url)


def check_kernel(fd: int, where: str) -> None:
    """Raise ImageError unless ``fd`` holds something Xen's domain builder may load.

    That is a bzImage ("HdrS" at 0x202, Documentation/arch/x86/boot.rst), an ELF file, or an ELF
    file in gzip as Red Hat's kernels for Xen were.
    """
    head = os.pread(fd, 4096, 0)
    if head[0x202:0x206] == b"HdrS" or head.startswith(b"\x7fELF"):
        return
    if head.startswith(b"\x1f\x8b"):
        try:
            inner = zlib.decompressobj(wbits=31).decompress(head, 4)
        except zlib.error:
            inner = b""
        if inner.startswith(b"\x7fELF"):
            return
    raise ImageError(
        "this is no Linux kernel: neither a bzImage nor an ELF file",
        where=where,
        hint="the config names something else, or the server sent an error page",
    )
