"""Makes guests from a golden image: clone, grow, identity, config; whole or not at all, each.

One appliance serves a batch, or where guests are many one on each processor. A guest that fails is
undone by its journal and the others go on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagekit.disk.device import check_device
from imagekit.disk.volume import check_room
from imagekit.domain.bootpath import domain_for
from imagekit.domain.model import DiskFormat, Domain, Mode
from imagekit.errors import (
    CapabilityError,
    ExistsError,
    GuestError,
    HostError,
    ImagekitError,
    SpecError,
)
from imagekit.guest.appliance import MEMORY_MIB, kill_appliances
from imagekit.guest.change_options import parse_ssh_key
from imagekit.guest.changes import SshKey
from imagekit.host.run import run
from imagekit.host.strangers import make_folder, require_private_path
from imagekit.pipeline.lanes import Queue, available_mib, lanes_for, run_lanes
from imagekit.pipeline.workspace import Workspace
from imagekit.provision import identity
from imagekit.provision.disks import Disks, Made, seal
from imagekit.provision.golden import Golden, sweep, undo
from imagekit.provision.guest_facts import guest_facts, root_uuid
from imagekit.provision.journal import GuestRecord, Journal, journal
from imagekit.provision.request import Clone, GuestRequest
from imagekit.provision.seed import write_seed
from imagekit.spec.manifest import Section
from imagekit.toolstacks.registry import emitter_for

CHAINS = ("xm",)
"""Toolstacks whose disks blktap2 opens: it reads chains of VHDs, QEMU's qdisk does not."""
WORTH_AN_APPLIANCE = 5
"""Guests for which another appliance is started: that takes as long as ten guests or so."""


@dataclass(frozen=True)
class ProvisionOptions:
    """What holds for all guests of one call; ``autostart`` is xendomains' directory of links."""

    directory: Path
    clone: Clone = "overlay"
    toolstack: str = "xl"
    mode: Mode | None = None
    seed: bool = False
    start: bool = False
    autostart: Path | None = None
    force: str | None = None


@dataclass
class Outcome:
    """What became of one guest: its files, or the error it was undone for."""

    name: str
    error: ImagekitError | None = None
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class _Work:
    """A guest on its way: where it is made, from what, and what became of it."""

    request: GuestRequest
    journal: Journal
    outcome: Outcome
    size: int
    keys: tuple[SshKey, ...]
    started: float
    directory: Path = Path()
    made: Made = field(default_factory=lambda: Made(Path(), "raw", None))
    seed: Path | None = None

    @property
    def failed(self) -> bool:
        return self.outcome.error is not None


def _require_own(directory: Path) -> None:
    require_private_path(directory, "choose a directory where nobody else may write")


def provision(
    requests: Sequence[GuestRequest],
    golden: Golden,
    options: ProvisionOptions,
    *,
    workspace: Workspace,
) -> list[Outcome]:
    """Make a guest for every request; what became of each, in their order.

    What killed provisions left is undone first. Raises HostError when nothing can work here, or
    others may write to the directory of the guests.
    """
    if options.directory.exists():
        _require_own(options.directory)
    for name in sweep():
        workspace.events.emit("note", text=f"undid what an interrupted provision left of {name}")
    outcomes = [Outcome(request.name) for request in requests]
    with contextlib.ExitStack() as stack:
        works = []
        for request, outcome in zip(requests, outcomes, strict=True):
            with _caught(outcome):
                works.append(_admit(request, golden, outcome, options, stack))
        try:
            if works:
                os.close(make_folder(options.directory))
                _require_own(options.directory)
            _make(works, golden, options, workspace)
        finally:
            for work in works:
                if not work.journal.finished:
                    _undo(work)
    return outcomes


def _undo(work: _Work) -> None:
    """Undo a guest; what resists is said beside why it was undone, and tried again later."""
    try:
        undo(work.journal)
    except ImagekitError as error:
        first = work.outcome.error.what if work.outcome.error else "it was not finished"
        work.outcome.error = ImagekitError(
            f"{first}; and undoing it failed: {error.what}",
            where=work.request.name,
            hint=f"imagekit destroy {work.request.name} tries again",
        )


@contextlib.contextmanager
def _caught(outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except ImagekitError as error:
        outcome.error = error
    except OSError as error:
        # A full file system is this guest's failure; others may lie elsewhere.
        name = error.filename
        outcome.error = HostError(
            error.strerror or str(error), where=os.fsdecode(name) if name else outcome.name
        )


def _admit(
    request: GuestRequest,
    golden: Golden,
    outcome: Outcome,
    options: ProvisionOptions,
    stack: contextlib.ExitStack,
) -> _Work:
    """Check a request, and lock its name for as long as ``stack`` lasts."""
    size = request.size or golden.size
    identity.check_size(size, golden.size)
    keys = tuple(parse_ssh_key(text) for text in request.ssh_keys)
    found = stack.enter_context(journal(request.name))
    if found.finished:
        raise ExistsError(
            f"the guest {request.name} exists",
            hint=f"imagekit destroy {request.name} removes it",
        )
    if found.entries():
        undo(found)
    if options.clone == "chain":
        _check_chain(golden, size, options)
    if request.device is not None:
        check_device(request.device, size, force=options.force)
    elif request.vg is not None:
        check_room(request.vg, request.name, size)
    return _Work(request, found, outcome, size, keys, time.monotonic())


def _check_chain(golden: Golden, size: int, options: ProvisionOptions) -> None:
    if options.toolstack not in CHAINS:
        raise CapabilityError(
            f"{options.toolstack} opens VHDs with QEMU, which reads no chains",
            where="--chain",
            hint="leave it away (a qcow2 overlay), or take --copy; xm with blktap2 reads chains",
        )
    if golden.format != "vhd":
        raise SpecError("a VHD chain stands on a VHD", where=str(golden.disk))
    if size != golden.size:
        raise SpecError(
            "the links of a VHD chain have one size",
            where="--size",
            hint="leave --size away, or build the golden image larger",
        )


def _make(
    works: Sequence[_Work], golden: Golden, options: ProvisionOptions, workspace: Workspace
) -> None:
    disks = Disks(golden, options.directory.absolute(), options.clone, workspace)

    def clone(work: _Work) -> None:
        with _caught(work.outcome):
            _clone(work, disks)

    _parallel(clone, works)
    if not options.seed:
        _settle_all([w for w in works if not w.failed], disks)
    for work in works:
        if not work.failed:
            with _caught(work.outcome):
                _finish(work, golden, options)


def _parallel(action: Callable[[_Work], None], works: Sequence[_Work]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(action, works))


def _clone(work: _Work, disks: Disks) -> None:
    """Give the guest its directory and its disk."""
    if not work.directory.name:
        work.directory = work.journal.directory(disks.parent / work.request.name)
    work.made = disks.make(work.request, work.size, work.directory, work.journal)


def _settle_all(works: Sequence[_Work], disks: Disks) -> None:
    """Identity for all: in one appliance, or where there are many, one on each processor."""
    count = lanes_for(len(works) // WORTH_AN_APPLIANCE, MEMORY_MIB, available_mib(), None)
    # Shares of equal size: an appliance takes the longer to start the more disks it has.
    share = min(identity.BATCH, -(-len(works) // count)) or 1
    queue = Queue([works[n : n + share] for n in range(0, len(works), share)])

    def lane(shares: Queue[Sequence[_Work]]) -> None:
        for part in shares:
            _settle(part, disks, shares.ended)

    run_lanes(queue, count, lane, kill_appliances)


def _settle(works: Sequence[_Work], disks: Disks, ended: threading.Event) -> None:
    """Identity for a batch; if one guest ends the appliance, the others are made anew."""
    if not works:
        return
    by_name = {work.request.name: work for work in works}
    golden = disks.golden
    uuid, last = root_uuid(golden.facts), disks.last_partition()
    targets = [
        identity.Target(
            *(w.request, w.made.disk, w.made.format, last, w.made.grown, uuid),
            *(_nics(golden, w), w.keys),
        )
        for w in works
    ]

    def failed(target: identity.Target, error: GuestError) -> None:
        by_name[target.request.name].outcome.error = error

    try:
        identity.settle(targets, failed, workspace=disks.workspace)
    except identity.ApplianceDied as error:
        if ended.is_set():
            raise
        by_name[str(error.where)].outcome.error = error
        rest = [w for w in works if not w.failed]
        for work in rest:
            with _caught(work.outcome):
                _clone(work, disks)
        _settle([w for w in rest if not w.failed], disks, ended)


def _nics(golden: Golden, work: _Work) -> int:
    wants = bool(work.request.mac or work.request.bridge or work.request.ip)
    return max(len(golden.facts.nics), int(wants))


def _finish(work: _Work, golden: Golden, options: ProvisionOptions) -> None:
    """Seed, config, start; the journal's last line makes the guest a whole one."""
    request, made = work.request, work.made
    disk = seal(made)
    image_format: DiskFormat = "vhd" if made.sealed else made.format
    files = {"disk": str(disk)}
    if options.seed:
        files["seed"] = str(_seeded(work, golden))
    facts = guest_facts(
        golden.facts,
        request,
        disk=str(disk),
        image_format=image_format,
        size=work.size,
        kernel=str(made.kernel) if made.kernel else None,
        initrd=str(made.initrd) if made.initrd else None,
        seed=str(work.seed) if work.seed else None,
    )
    mode = options.mode or (facts.modes[0] if facts.modes else "pv")
    domain = _on_its_chain(domain_for(facts, mode=mode, toolstack=options.toolstack), made)
    config = work.directory / f"{request.name}.{_suffix(options.toolstack)}"
    config.touch(mode=0o600)
    config.write_text(emitter_for(options.toolstack).text(domain, facts))
    files["config"] = str(config)
    work.journal.add("domain", name=request.name, uuid=facts.uuid, toolstack=options.toolstack)
    if options.autostart is not None:
        work.journal.link(options.autostart / config.name, config)
    if options.start:
        _start(options.toolstack, config)
    _sync(work.directory)
    work.outcome.seconds = round(time.monotonic() - work.started, 3)
    work.outcome.files = files
    work.journal.complete(
        GuestRecord(
            name=request.name,
            uuid=facts.uuid,
            golden=str(golden.directory),
            golden_sha256=golden.sha256,
            size_bytes=work.size,
            files=files,
            request=Section.model_validate(request.model_dump(mode="json")),
            facts_section=Section.model_validate(facts.to_json()),
            mode=mode,
            toolstack=options.toolstack,
        )
    )


def _on_its_chain(domain: Domain, made: Made) -> Domain:
    """``domain`` with the tapdisk back end, which alone follows a chain of VHDs."""
    if made.sealed is None:
        return domain
    chain = replace(domain.disks[0], backend="tap")
    return replace(domain, disks=(chain, *domain.disks[1:]))


def _seeded(work: _Work, golden: Golden) -> Path:
    """Write the guest's seed disk."""
    work.seed = work.directory / f"{work.request.name}-seed.iso"
    work.seed.touch(mode=0o600)
    write_seed(work.request, work.keys, _nics(golden, work), work.seed)
    return work.seed


def _suffix(toolstack: str) -> str:
    return "xml" if toolstack == "libvirt" else "cfg"


def _start(toolstack: str, config: Path) -> None:
    if toolstack == "xl":
        run(["xl", "create", "-q", str(config)], timeout=300, what="starting the domU")
    elif toolstack == "libvirt":
        run(["virsh", "-c", "xen:///", "define", str(config)], timeout=60, what="defining it")
        run(["virsh", "-c", "xen:///", "start", config.stem], timeout=300, what="starting the domU")
    else:
        raise SpecError(f"{toolstack} guests are not started from here", where="--start")


def _sync(directory: Path) -> None:
    """Everything is on disk before the journal says so."""
    for path in (*directory.iterdir(), directory):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def destroy(name: str) -> None:
    """Undo the guest ``name``, exactly what its provision made, finished or not.

    Raises SpecError when there is no such guest, BusyError when it is worked on.
    """
    with journal(name) as found:
        if not found.entries():
            raise SpecError(f"there is no guest {name}", hint="imagekit destroy --list shows them")
        undo(found)
