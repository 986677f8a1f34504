"""What a golden image must not carry: files by which two instances of it would be the same machine.

Sources: machine-id(5), systemd "Building images safely", the operations of virt-sysprep(1).
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from imagekit.guest.files import GuestFiles
from imagekit.guest.hostkeys import make_at_first_boot

MAX_MATCHES = 200
MACHINE_ID_MODE = 0o644
"""As in every build so far: another mode, and a bundle would not be rebuilt byte by byte."""


@dataclass(frozen=True)
class Identity:
    """One kind of identity: ``patterns`` are guest paths whose last name may have ``*`` and ``?``.

    ``empty`` means that the file stays and is emptied (machine-id: its absence would start
    first-boot questions). ``fatal`` says whether clones harm each other, or it is only untidy.
    ``trace`` says that it only tells of how the image was made; a clone of a clean image has none.
    """

    code: str
    what: str
    consequence: str
    patterns: tuple[str, ...]
    fatal: bool = False
    empty: bool = False
    trace: bool = False


IDENTITIES: tuple[Identity, ...] = (
    Identity(
        "baked-machine-id",
        "/etc/machine-id holds an id",
        "clones have the same machine id: one DHCP client id, one address, mixed journals",
        ("/etc/machine-id", "/var/lib/dbus/machine-id"),
        fatal=True,
        empty=True,
    ),
    Identity(
        "baked-ssh-host-keys",
        "ssh host keys are in the image",
        "every clone has the same keys: whoever holds one guest can pose as all of them",
        ("/etc/ssh/ssh_host_*",),
        fatal=True,
    ),
    Identity(
        "baked-random-seed",
        "a random seed is in the image",
        "clones start from the same seed and may draw the same secrets early in their boot",
        (
            "/var/lib/systemd/random-seed",
            "/var/lib/urandom/random-seed",
            "/var/lib/random-seed",
            "/var/lib/systemd/credential.secret",
            "/boot/efi/loader/random-seed",
        ),
        fatal=True,
    ),
    Identity(
        "baked-dhcp-leases",
        "DHCP leases are in the image",
        "a clone asks for the address of the machine the image was made on",
        (
            "/var/lib/dhcp/*.leases",
            "/var/lib/dhcp/*.lease",
            "/var/lib/dhclient/*.lease*",
            "/var/lib/NetworkManager/*.lease",
            "/var/lib/NetworkManager/secret_key",
            "/var/lib/dhcpcd/*.lease*",
            "/var/lib/dhcpcd5/*.lease*",
            "/var/lib/dhcpcd/duid",
        ),
    ),
    Identity(
        "persistent-net-rules",
        "network names are tied to the MAC addresses of another machine",
        "the guest's VIF gets the next name (eth1) and its configuration is not applied",
        ("/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/*-persistent-net.rules"),
        fatal=True,
    ),
    Identity(
        "build-logs",
        "the system's journal of another machine is in the image",
        "logs of the machine the image was made on travel with it",
        ("/var/log/journal/*",),
    ),
    Identity(
        "build-traces",
        "backups, caches and logs of the machine's making are in the image",
        "clones carry what was typed and changed before they were made, old passwords among it",
        (
            *("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/.pwd.lock"),
            *("/root/.bash_history", "/var/log/bootstrap.log", "/.imagekit-script*"),
            *("/var/cache/debconf/*-old", "/var/cache/apt/*.bin", "/var/lib/apt/lists/*_dists_*"),
            *("/var/lib/NetworkManager/timestamps", "/var/lib/NetworkManager/seen-bssids"),
            "/etc/udev/rules.d/70-persistent-cd.rules",
        ),
        trace=True,
    ),
)


def found_in(files: GuestFiles, identity: Identity) -> list[str]:
    """Guest paths that ``identity`` finds, at most MAX_MATCHES; emptied ones do not count."""
    found: list[str] = []
    for pattern in identity.patterns:
        directory, _, last = pattern.rpartition("/")
        names = files.names(directory) if set(last) & set("*?") else [last]
        for name in names:
            path = f"{directory}/{name}"
            if fnmatch.fnmatchcase(name, last) and _counts(files, path, identity):
                found.append(path)
    return list(dict.fromkeys(found))[:MAX_MATCHES]


def _counts(files: GuestFiles, path: str, identity: Identity) -> bool:
    status = files.lstat(path)
    if status is None:
        return False
    if identity.empty:
        # machine-id(5): empty or "uninitialized" is how images are to be shipped.
        return files.peek(path, 64).strip() not in ("", "uninitialized")
    return True


def remove_identity(files: GuestFiles, identity: Identity) -> list[str]:
    """Take away what :func:`found_in` finds; returns the paths."""
    paths: list[str] = []
    while found := found_in(files, identity):
        for path in found:
            if identity.empty and path == "/etc/machine-id":
                files.write(path, b"", mode=MACHINE_ID_MODE)
            else:
                files.remove(path)
        paths += found
        if len(found) < MAX_MATCHES:
            break
    if paths and identity.code == "baked-ssh-host-keys":
        make_at_first_boot(files)
    return paths
