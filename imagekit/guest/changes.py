"""What can be done to a guest: one frozen value per change, whatever its files lie in.

:mod:`imagekit.guest.apply` carries them out, in a tree and in a finished image alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imagekit.guest.network.state import NetworkState
from imagekit.guest.sshkeys import PublicKey

SCRIPT_TIMEOUT = 3600.0


@dataclass(frozen=True)
class Copy:
    """Copy a file or a tree of the host into the guest.

    A tree keeps its modes. ``mode`` None keeps the source's permission bits of 0777. ``owner`` is
    USER[:GROUP], names of the guest or numbers.
    """

    source: Path
    target: str
    mode: int | None = None
    owner: str = "root"

    def __str__(self) -> str:
        return f"copy {self.source} to {self.target}"


@dataclass(frozen=True)
class Write:
    """Write a file; ``mode`` and ``owner`` None keep those of a file that is there."""

    target: str
    content: bytes = field(repr=False)
    mode: int | None = None
    owner: str | None = None

    def __str__(self) -> str:
        return f"write {self.target} ({len(self.content)} bytes)"


@dataclass(frozen=True)
class Link:
    """Make ``path`` a symbolic link to ``target``, in place of a file or link."""

    path: str
    target: str

    def __str__(self) -> str:
        return f"link {self.path} to {self.target}"


@dataclass(frozen=True)
class Mkdir:
    """Make a directory and its parents; one that is there gets mode and owner."""

    target: str
    mode: int = 0o755
    owner: str = "root"

    def __str__(self) -> str:
        return f"make the directory {self.target}"


@dataclass(frozen=True)
class Remove:
    """Remove a file or a tree; nothing happens when there is none."""

    target: str

    def __str__(self) -> str:
        return f"remove {self.target}"


@dataclass(frozen=True)
class ForgetIdentity:
    """Take away all by which clones would be one machine (:mod:`imagekit.guest.golden`)."""

    def __str__(self) -> str:
        return "remove the machine's identity"


@dataclass(frozen=True)
class Hostname:
    """Give the guest a name, short or with its domain."""

    name: str

    def __str__(self) -> str:
        return f"set the host name {self.name}"


@dataclass(frozen=True)
class SetNetwork:
    """Configure the NICs of a guest that is made for systemd-networkd."""

    state: NetworkState

    def __str__(self) -> str:
        return f"configure {len(self.state.vifs)} NIC(s)"


@dataclass(frozen=True)
class HostKeysAtBoot:
    """Enable a unit by which a guest with sshd makes its host keys when it starts without."""

    def __str__(self) -> str:
        return "make ssh host keys at the first boot"


@dataclass(frozen=True)
class AddUser:
    """Add an account with its group and home, or make one that is there like this.

    The programs' own accounts (below 1000) keep their shell and description.
    """

    name: str
    gecos: str = ""
    shell: str = "/bin/bash"
    groups: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"add the user {self.name}"


@dataclass(frozen=True)
class SetHash:
    """Give an account a password by its crypt(5) hash."""

    user: str
    value: str = field(repr=False)

    def __str__(self) -> str:
        return f"set the password of {self.user}"


@dataclass(frozen=True)
class SshKey:
    """Let the holders of ``keys`` log in as ``user``."""

    user: str
    keys: tuple[PublicKey, ...]

    def __str__(self) -> str:
        return f"authorize {len(self.keys)} ssh key(s) for {self.user}"


@dataclass(frozen=True)
class RunScript:
    """Run a program inside the guest as root; ``timeout`` in seconds.

    ``content`` is the program or a file of the host that holds it; ``environment`` are variables
    beside those that every program gets.
    """

    name: str
    content: bytes | Path = field(repr=False)
    timeout: float = SCRIPT_TIMEOUT
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"run {self.name}"


Change = (
    Copy
    | Write
    | Link
    | Mkdir
    | Remove
    | ForgetIdentity
    | Hostname
    | SetNetwork
    | HostKeysAtBoot
    | AddUser
    | SetHash
    | SshKey
    | RunScript
)
