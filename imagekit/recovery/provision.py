"""Makes guests from a golden image: clone, grow, identity, config; whole or not at all, each.

The appliance is started once for a batch. A guest that fails is undone by its journal and the
others go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from imagekit.disk import qemu_img, vhd
from imagekit.disk.extents import copy_sparse
from imagekit.domain.bootpath import domain_for
from imagekit.domain.emitters import emitter_for
from imagekit.domain.model import DiskFormat, Mode
from imagekit.errors import ExistsError, GuestError, ImagekitError, SpecError
from imagekit.guest.changes import SshKey, parse_ssh_key
from imagekit.host.run import run
from imagekit.pipeline.workspace import Workspace
from imagekit.recovery import identity
from imagekit.recovery.config import guest_facts, root_uuid
from imagekit.recovery.device import check_device, write_device
from imagekit.recovery.golden import (
    Golden,
    base_directory,
    bases_locked,
    make_base,
    sweep,
    undo,
)
from imagekit.recovery.journal import Journal, journal
from imagekit.recovery.request import Clone, GuestRequest
from imagekit.recovery.seed import write_seed

MIB = 1 << 20


@dataclass(frozen=True)
class Options:
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
    disk: Path = Path()
    format: DiskFormat = "raw"
    kernel: Path | None = None
    initrd: Path | None = None
    seed: Path | None = None

    @property
    def failed(self) -> bool:
        return self.outcome.error is not None


def provision(
    requests: Sequence[GuestRequest], golden: Golden, options: Options, *, workspace: Workspace
) -> list[Outcome]:
    """Make a guest for every request; what became of each, in their order.

    What killed provisions left is undone first. Raises HostError when nothing can work here.
    """
    for name in sweep():
        workspace.events.emit("note", text=f"undid what an interrupted provision left of {name}")
    outcomes = [Outcome(request.name) for request in requests]
    with contextlib.ExitStack() as stack:
        works = []
        for request, outcome in zip(requests, outcomes, strict=True):
            with _caught(outcome):
                works.append(_admit(request, golden, outcome, options, stack))
        try:
            _make(works, golden, options, workspace)
        finally:
            for work in works:
                if work.journal.record() is None:
                    undo(work.journal)
    return outcomes


@contextlib.contextmanager
def _caught(outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except ImagekitError as error:
        outcome.error = error


def _admit(
    request: GuestRequest,
    golden: Golden,
    outcome: Outcome,
    options: Options,
    stack: contextlib.ExitStack,
) -> _Work:
    """Check a request, and lock its name for as long as ``stack`` lasts."""
    size = request.size or golden.size
    identity.check_size(size, golden.size)
    keys = tuple(parse_ssh_key(text) for text in request.ssh_keys)
    found = stack.enter_context(journal(request.name))
    if found.record() is not None:
        raise ExistsError(
            f"the guest {request.name} exists",
            hint=f"imagekit destroy {request.name} removes it",
        )
    if request.device is not None:
        check_device(request.device, size, force=options.force)
    return _Work(request, found, outcome, size, keys, time.monotonic())


def _make(works: Sequence[_Work], golden: Golden, options: Options, workspace: Workspace) -> None:
    def clone(work: _Work) -> None:
        with _caught(work.outcome):
            _clone(work, golden, options, workspace)

    _parallel(clone, works)
    if not options.seed:
        alive = [w for w in works if not w.failed]
        for start in range(0, len(alive), identity.BATCH):
            _settle(alive[start : start + identity.BATCH], golden, options, workspace)
    for work in works:
        if not work.failed:
            with _caught(work.outcome):
                _finish(work, golden, options)


def _parallel(action: Callable[[_Work], None], works: Sequence[_Work]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(action, works))


def _clone(work: _Work, golden: Golden, options: Options, workspace: Workspace) -> None:
    """Give the guest its directory and its disk."""
    options.directory.mkdir(parents=True, exist_ok=True)
    parent = options.directory.absolute()
    if not work.directory.name:
        work.directory = work.journal.directory(parent / work.request.name)
    if work.request.device is not None:
        _to_device(work, golden, workspace)
    elif options.clone == "overlay":
        _overlay(work, golden, parent)
        return
    else:
        work.format = "raw"
        work.disk = work.directory / f"{work.request.name}.raw"
        work.disk.unlink(missing_ok=True)
        _raw_copy(golden, work.disk)
        os.truncate(work.disk, work.size)
        work.disk.chmod(0o600)
    for source, name in ((golden.kernel, "vmlinuz"), (golden.initrd, "initrd.img")):
        if source is not None:
            shutil.copyfile(source, work.directory / name)
    work.kernel = work.directory / "vmlinuz" if golden.kernel else None
    work.initrd = work.directory / "initrd.img" if golden.initrd else None


def _overlay(work: _Work, golden: Golden, parent: Path) -> None:
    place = base_directory(golden, parent)
    with bases_locked():
        work.journal.add("base", path=str(place))
        base = make_base(golden, place)
    work.kernel, work.initrd = base.kernel, base.initrd
    work.format = "qcow2"
    work.disk = work.directory / f"{work.request.name}.qcow2"
    work.disk.unlink(missing_ok=True)
    run(
        [
            *("qemu-img", "create", "-q", "-f", "qcow2", "-F", base.format),
            *("-b", str(base.disk), str(work.disk), str(work.size)),
        ],
        timeout=120,
        what="making the overlay",
    )
    work.disk.chmod(0o600)


def _raw_copy(golden: Golden, target: Path) -> None:
    if golden.format == "raw":
        copy_sparse(golden.disk, target)
    elif golden.format == "vhd":
        vhd.read_vhd(golden.disk, target)
    else:
        qemu_img.convert(golden.disk, target, source_format="qcow2", target_format="raw")


def _to_device(work: _Work, golden: Golden, workspace: Workspace) -> None:
    device = work.request.device
    if device is None:
        raise SpecError("no device was named")
    work.format, work.disk = "raw", device
    source = golden.disk
    if golden.format != "raw":
        source = workspace.temporary("golden") / "disk.raw"
        _raw_copy(golden, source)
    work.journal.add("device", path=str(device.resolve()))
    write_device(source, device)


def _settle(works: Sequence[_Work], golden: Golden, options: Options, workspace: Workspace) -> None:
    """Identity for a batch; if one guest ends the appliance, the others are made anew."""
    if not works:
        return
    by_name = {work.request.name: work for work in works}
    uuid = root_uuid(golden.facts)
    targets = [
        identity.Target(
            *(w.request, w.disk, w.format, golden.size, w.size, uuid, _nics(golden, w)), w.keys
        )
        for w in works
    ]

    def failed(target: identity.Target, error: GuestError) -> None:
        by_name[target.request.name].outcome.error = error

    try:
        identity.settle(targets, failed, workspace=workspace)
    except identity.ApplianceDied as error:
        by_name[str(error.where)].outcome.error = error
        rest = [w for w in works if not w.failed]
        for work in rest:
            with _caught(work.outcome):
                _clone(work, golden, options, workspace)
        _settle([w for w in rest if not w.failed], golden, options, workspace)


def _nics(golden: Golden, work: _Work) -> int:
    wants = bool(work.request.mac or work.request.bridge or work.request.ip)
    return max(len(golden.facts.nics), int(wants))


def _finish(work: _Work, golden: Golden, options: Options) -> None:
    """Seed, config, start; the journal's last line makes the guest a whole one."""
    request = work.request
    files = {"disk": str(work.disk)}
    if options.seed:
        work.seed = work.directory / f"{request.name}-seed.iso"
        work.seed.touch(mode=0o600)
        write_seed(request, work.keys, _nics(golden, work), work.seed)
        files["seed"] = str(work.seed)
    facts = guest_facts(
        golden.facts,
        request,
        disk=str(work.disk),
        image_format=work.format,
        size=work.size,
        kernel=str(work.kernel) if work.kernel else None,
        initrd=str(work.initrd) if work.initrd else None,
        seed=str(work.seed) if work.seed else None,
    )
    mode = options.mode or (facts.modes[0] if facts.modes else "pv")
    domain = domain_for(facts, mode=mode, toolstack=options.toolstack)
    config = work.directory / f"{request.name}.{_suffix(options.toolstack)}"
    config.touch(mode=0o600)
    config.write_text(emitter_for(options.toolstack).text(domain, facts))
    files["config"] = str(config)
    work.journal.add("domain", name=request.name, uuid=facts.uuid)
    if options.autostart is not None:
        work.journal.link(options.autostart / config.name, config)
    if options.start:
        _start(options.toolstack, config)
    _sync(work.directory)
    work.outcome.seconds = round(time.monotonic() - work.started, 3)
    work.outcome.files = files
    work.journal.add(
        "complete",
        name=request.name,
        uuid=facts.uuid,
        golden=str(golden.directory),
        golden_sha256=golden.sha256,
        size=work.size,
        files=files,
        request=json.loads(request.model_dump_json()),
    )


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


def destroy(name: str) -> dict[str, object] | None:
    """Undo the guest ``name``, exactly what its provision made; its record, None if unfinished.

    Raises SpecError when there is no such guest, BusyError when it is worked on.
    """
    with journal(name) as found:
        if not found.entries():
            raise SpecError(f"there is no guest {name}", hint="imagekit destroy --list shows them")
        record = found.record()
        undo(found)
        return record
