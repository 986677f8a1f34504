"""A provisioned guest in one file: its disk as it is, what boots it, its config, MACs and UUIDs.

The disk of a guest holds its secrets: they are taken out of a copy, unless the bundle is sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from imagekit import __version__
from imagekit.disk import qemu_img
from imagekit.disk.device import exclusive
from imagekit.disk.extents import copy_sparse, sha256_sparse
from imagekit.disk.reading import unpack_chain
from imagekit.domain.facts import BuildFacts, DiskFacts
from imagekit.errors import BusyError, GuestError, SpecError
from imagekit.guest.appliance import Appliance, Drive, appliance
from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.golden import IDENTITIES, remove_identity
from imagekit.guest.mounts import mount_guest
from imagekit.host import tools
from imagekit.host.run import run
from imagekit.host.signing import Sign
from imagekit.pipeline.workspace import Workspace
from imagekit.provision.journal import GuestRecord, disk_of_base, journal
from imagekit.recovery.about import About
from imagekit.recovery.bundle import Source, maybe_sealed, packed_disk, write_signed
from imagekit.recovery.container import Member
from imagekit.recovery.sealing import SUFFIXES, Seal
from imagekit.recovery.unpacked import IMAGE
from imagekit.spec.manifest import MANIFEST, Artefact, Manifest, Section, manifest_text

SECRET_IDENTITIES = ("baked-ssh-host-keys", "baked-random-seed")
SHADOWS = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-")


def make_guest_bundle(
    name: str,
    target: Path,
    *,
    workspace: Workspace,
    sign: Sign | None = None,
    how: Seal | None = None,
    overwrite: bool = False,
) -> list[Member]:
    """Write the bundle ``target`` of the provisioned guest ``name``, which must not run.

    Without ``how`` a copy of the disk goes in from which SSH host keys, password hashes and random
    seeds were taken. Raises SpecError when there is no such guest, BusyError when it runs or is
    worked on, GuestError when its file systems cannot be opened to take secrets out, ExistsError.
    """
    with journal(name) as found:
        record = found.record()
        if record is None:
            raise SpecError(
                f"there is no guest {name}", hint="imagekit destroy --list shows guests"
            )
        facts, size = record.facts, record.size_bytes
        if facts is None or size is None:
            raise SpecError(f"the guest {name} was made by an older imagekit", where=name)
        _refuse_running(name)
        raw = workspace.temporary("guest", size_bytes=size) / "disk.raw"
        workspace.events.emit("note", text=f"copying the disk of {name}")
        _flatten(facts.disks[0], found.bases(), size, raw)
    if how is None:
        workspace.events.emit("note", text="taking its secrets out of the copy")
        _strip(raw, workspace)
    manifest, files = _contents(name, record, facts, raw)
    files.append((IMAGE, packed_disk(raw, workspace)))
    sources: list[Source] = [maybe_sealed(*file, how, workspace) for file in files]
    sources.append((MANIFEST, manifest_text(manifest).encode()))
    about = About(
        kind="guest",
        name=name,
        imagekit=__version__,
        sealed=[member for member, _ in sources if member.endswith(SUFFIXES)],
        stripped=how is None,
        disks=manifest.disk_digests,
    )
    return write_signed(target, about, sources, sign, workspace=workspace, overwrite=overwrite)


def _refuse_running(name: str) -> None:
    if tools.find("xl") is None:
        return
    if run(["xl", "domid", name], check=False, timeout=30).returncode == 0:
        raise BusyError(
            f"the guest {name} runs, and its disk changes",
            hint=f"xl shutdown -w {name}",
        )


def _flatten(disk: DiskFacts, bases: Sequence[Path], size: int, target: Path) -> None:
    """The guest's disk as a raw file of ``size`` bytes.

    ``bases`` are the directories of the golden images it stands on, as its journal has them.
    """
    image_format, text = next(iter(disk.paths.items()))
    source = Path(text)
    if image_format == "qcow2":
        base = disk_of_base(bases[-1]) if bases else None
        qemu_img.convert(source, target, source_format="qcow2", target_format="raw", base=base)
    elif image_format == "vhd":
        unpack_chain([source, *(disk_of_base(base)[0] for base in bases)], target)
    elif source.is_block_device():
        with exclusive(source):
            copy_sparse(source, target)
    else:
        copy_sparse(source, target)
    # A device may be larger than the disk that was written to it.
    with target.open("r+b") as stream:
        stream.truncate(size)
    target.chmod(0o600)


def _strip(raw: Path, workspace: Workspace) -> None:
    """Take out what would let others pose as the guest, and what is left of it in free blocks."""
    drive = Drive(raw, "raw", readonly=False, discard=True)
    with appliance([drive], workspace=workspace) as app:
        try:
            root = mount_guest(app, None, readonly=False)
        except GuestError as error:
            error.hint = "bundle it encrypted: --encrypt-to, --age or --passphrase-file"
            raise
        files = ApplianceFiles(app)
        for identity in IDENTITIES:
            if identity.code in SECRET_IDENTITIES:
                remove_identity(files, identity)
        for path in SHADOWS:
            text = files.text(path)
            if text is not None:
                files.write_text(path, without_hashes(text))
        for point, _device in root.mounts:
            app.call("fstrim", point)
        app.call("umount_all")
        _empty_swap(app)
        app.finish()


def without_hashes(text: str) -> str:
    """A shadow(5) or gshadow(5) file in which no password is right any more.

    What is locked or empty stays as it is: an empty password is no secret.
    """
    lines = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 1 and fields[1] and fields[1][0] not in "!*":
            fields[1] = "!"
        elif len(fields) > 1 and fields[1].startswith("!"):
            # passwd -l keeps the hash behind the mark.
            fields[1] = "!"
        lines.append(":".join(fields))
    return "".join(f"{line}\n" for line in lines)


def _empty_swap(app: Appliance) -> None:
    for device, kind in dict(app.call("list_filesystems")).items():
        if kind == "swap":
            uuid, label = app.call("vfs_uuid", device), app.call("vfs_label", device)
            app.call("blkdiscard", device)
            if label:
                app.call("mkswap", device, uuid=str(uuid), label=str(label))
            else:
                app.call("mkswap", device, uuid=str(uuid))


def _artefact(role: str, source: Path, path: str) -> Artefact:
    digest, size = sha256_sparse(source), source.stat().st_size
    return Artefact(role=role, path=path, sha256=digest, size_bytes=size)


def _contents(
    name: str, record: GuestRecord, facts: BuildFacts, raw: Path
) -> tuple[Manifest, list[tuple[str, Path]]]:
    """The manifest of the guest, in the form of a build's, and the members besides the disk."""
    disk = _artefact("disk", raw, f"{name}.raw")
    as_raw = {"format": "raw", "virtual_size_bytes": disk.size_bytes}
    artefacts = [disk.model_copy(update=as_raw)]
    sources: list[tuple[str, Path]] = []

    def put(role: str, source: str | None, path: str) -> str | None:
        if source is None:
            return None
        artefacts.append(_artefact(role, Path(source), path))
        sources.append((f"boot/{path}", Path(source)))
        return path

    disks = [
        replace(
            facts.disks[0],
            paths={"raw": disk.path},
            sizes={"raw": disk.size_bytes},
            sha256={"raw": disk.sha256},
        )
    ]
    for other in facts.disks[1:]:
        put("seed", other.paths["raw"], f"{name}-seed.iso")
        disks.append(replace(other, paths={"raw": f"{name}-seed.iso"}))
    located = replace(
        facts,
        disks=tuple(disks),
        kernel=put("kernel", facts.kernel, f"{name}-vmlinuz"),
        initrd=put("initrd", facts.initrd, f"{name}-initrd.img"),
    )
    config = Path(record.files["config"])
    how = {"mode": record.mode, "toolstack": record.toolstack}
    artefacts.append(_artefact("domain-config", config, config.name).model_copy(update=how))
    sources.append((f"configs/{config.name}", config))
    manifest = Manifest(
        name=name,
        guest=record.request,
        facts=Section.model_validate(located.to_json()),
        artefacts=tuple(artefacts),
    )
    return manifest, sources
