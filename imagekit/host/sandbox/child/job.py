"""What the sandbox is to be, as it is handed over."""

from __future__ import annotations

from typing import NamedTuple


class Mount(NamedTuple):
    """A file or directory of the host, ``source``, at the absolute path ``target`` inside.

    ``mapped``: its owners on disk are the sandbox's own (an idmapped mount), where they can be.
    """

    source: str
    target: str
    read_only: bool
    mapped: bool


class Limits(NamedTuple):
    """Bounds of each process, in bytes and seconds (setrlimit(2)); None where a cgroup has it."""

    data: int | None
    file_size: int
    cpu_seconds: int
    processes: int | None
    free: int
    """Bytes that must stay free where the sandbox writes; less on small file systems."""
    shared_memory: int
    """The size of each of its file systems in memory."""


class Watched(NamedTuple):
    """A number of a control group: the bound ``name`` is reached when ``key`` is above ``most``."""

    path: str
    key: str
    most: int
    name: str


class Job(NamedTuple):
    """One program and its sandbox.

    ``root`` is the tree, or with ``empty`` nothing: a new root in memory. ``links`` are symbolic
    links of the new root. ``base`` is the host's id of the sandbox's uid and gid 0, which 65535
    more follow; 0: every id is itself. ``recursive`` takes mounts below the sources too, which a
    user namespace may not leave out. ``join`` are the cgroup.procs files of its control groups.
    ``network`` is "none", "host" or "joined"; ``net`` and ``user`` are descriptors of namespaces
    to join. ``later`` are paths inside and where they are shown inside besides, once the program
    asks for it. ``filters`` are BPF programs of seccomp, in base64.
    """

    root: str
    empty: bool
    mounts: list[Mount]
    links: list[tuple[str, str]]
    argv: list[str]
    env: dict[str, str]
    cwd: str
    kept: list[int]
    mounting: bool
    user_namespace: bool
    base: int
    recursive: bool
    sysfs: bool
    limits: Limits
    join: list[str]
    watched: list[Watched]
    network: str
    net: int | None
    user: int | None
    later: list[tuple[str, str]]
    filters: list[str]
    report: int
    parent: int
    """The process that waits; without it nothing is started."""
    asked: int = -1
    asks: int = -1
    """The ends of a socket between who waits and the program, with ``later``."""


def from_json(value: list[object]) -> Job:
    """The job whose fields are ``value``, as json reads what it wrote."""
    job = Job(*value)  # type: ignore[arg-type]
    return job._replace(
        mounts=[Mount(*m) for m in job.mounts],
        links=[(path, target) for path, target in job.links],
        later=[(source, target) for source, target in job.later],
        limits=Limits(*job.limits),
        watched=[Watched(*w) for w in job.watched],
    )
