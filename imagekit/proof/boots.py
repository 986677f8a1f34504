"""What is to be proven: the configs of a build, or one of somebody else's, with mode and path."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from imagekit.disk import qemu_img
from imagekit.disk.reading import probe
from imagekit.domain.bootpath import ORDER, domain_for
from imagekit.domain.facts import facts_of
from imagekit.domain.model import MODES, DiskFormat, Mode
from imagekit.errors import CapabilityError, SpecError
from imagekit.proof import libvirtxml, xlcfg
from imagekit.proof.guestconfig import TOOLSTACKS, GuestConfig, GuestDisk, read_bytes
from imagekit.spec.manifest import MANIFEST, Manifest, file_in, read_manifest
from imagekit.spec.model import ProofToolstack
from imagekit.spec.nearest import did_you_mean
from imagekit.toolstacks import registry

ProofBoot = Literal["pygrub", "pvgrub", "direct", "firmware", "uefi"]
BOOTS: tuple[ProofBoot, ...] = ("pygrub", "pvgrub", "direct", "firmware", "uefi")
"""firmware is the config's own, BIOS where the image has boot code for both; uefi insists."""

LAB_PATHS = ("/usr/lib/grub-xen/", "/usr/lib/xen-4.", "/usr/lib/xen/", "/usr/share/")
"""Files below these are the dom0's own (pvgrub, firmware): the lab has them."""

WAITING = ".imagekit-unproven-"
"""Begins the name of a build's directory until it is proven; its configs name the one to be."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for; empty means whatever the configs name, and xl."""

    modes: tuple[Mode, ...] = ()
    boots: tuple[ProofBoot, ...] = ()
    formats: tuple[DiskFormat, ...] = ()
    toolstacks: tuple[ProofToolstack, ...] = ()

    @classmethod
    def checked(
        cls,
        modes: Sequence[str] = (),
        boots: Sequence[str] = (),
        formats: Sequence[str] = (),
        toolstacks: Sequence[str] = (),
    ) -> Wanted:
        """From a user's words; raises SpecError for unknown ones."""
        for given, known, name in (
            (modes, MODES, "mode"),
            (boots, BOOTS, "boot"),
            (formats, ("raw", "qcow2", "vhd"), "format"),
            (toolstacks, TOOLSTACKS, "toolstack"),
        ):
            for word in given:
                if word not in known:
                    hint = f"one of {', '.join(known)}"
                    meant = did_you_mean(word, known)
                    raise SpecError(f"{word!r} is not known{meant}", where=f"--{name}", hint=hint)
        return cls(
            tuple(cast(Mode, m) for m in dict.fromkeys(modes)),
            tuple(cast(ProofBoot, b) for b in dict.fromkeys(boots)),
            tuple(cast(DiskFormat, f) for f in dict.fromkeys(formats)),
            tuple(cast(ProofToolstack, t) for t in dict.fromkeys(toolstacks)),
        )


@dataclass(frozen=True)
class Trial:
    """One boot to be proven. ``files`` maps paths in the config to files of this host.

    ``xen`` is the version of the Xen to boot it under, empty until :func:`under_each` says it.
    """

    ident: str
    config: GuestConfig
    files: dict[str, Path] = field(default_factory=dict)
    xen: str = ""

    @property
    def format(self) -> str:
        """The format of the first disk, or "-"."""
        return self.config.disks[0].format if self.config.disks else "-"

    @property
    def lab(self) -> str:
        """The lab it needs: that of its Xen, with libvirt for a config of libvirt's."""
        toolstack = self.config.toolstack
        return self.xen if toolstack == "xl" else f"{self.xen}-{toolstack}"

    def host_path(self, name: str) -> Path:
        """The file of this host that plays ``name`` of the config."""
        return self.files.get(name, Path(name))

    def host_files(self) -> list[Path]:
        """The files of this host that it opens, as far as they are there."""
        config = self.config
        names = [config.kernel, config.ramdisk, *(disk.path for disk in config.disks)]
        there = [self.host_path(n) for n in names if n and not n.startswith(LAB_PATHS)]
        return [path for path in there if path.exists()]


def trials_of_build(build: Path, wanted: Wanted, out: Path) -> list[Trial]:
    """The trials of the build in ``build``, which may still wait to be published.

    Configs of the build are used as they are; for a boot path or format that none of them has, one
    is written into ``out``. Raises SpecError, or CapabilityError for what the image cannot do.
    """
    manifest = read_manifest(build)
    build = build.absolute()
    called = build.with_name(build.name.removeprefix(WAITING))
    chosen: list[GuestConfig] = []
    problem: CapabilityError | None = None
    for toolstack in wanted.toolstacks or ("xl",):
        configs = _build_configs(build, manifest, toolstack)
        if not configs and toolstack == "xl":
            raise SpecError("the build has no config for xl", where=str(build))
        modes = wanted.modes or _modes(configs, manifest)
        for mode, boot, image_format in itertools.product(
            modes, wanted.boots or (None,), wanted.formats or (None,)
        ):
            found = [c for c in configs if _suits(c, mode, boot, image_format)]
            if found:
                chosen += found
            elif _exists(mode, boot):
                make = _Missing(toolstack, mode, boot, image_format)
                try:
                    chosen.append(make.rendered(called, manifest, out))
                except CapabilityError as error:
                    problem = error
    if problem is not None:
        raise problem
    if not chosen:
        raise SpecError(f"no guest boots as {'/'.join(modes)} through {'/'.join(wanted.boots)}")
    return _named(chosen, _played_by(build, called, chosen))


def _modes(configs: list[GuestConfig], manifest: Manifest) -> tuple[Mode, ...]:
    """Those that ``configs`` are for; without any, those that the spec asked for."""
    if not configs:
        return facts_of(manifest, MANIFEST).modes
    return tuple(dict.fromkeys(cast(Mode, config.mode) for config in configs))


def _played_by(build: Path, called: Path, configs: list[GuestConfig]) -> dict[str, Path]:
    """For every path below ``called`` that a config names, the same below ``build``."""
    names = [name for c in configs for name in (c.kernel, c.ramdisk, *(d.path for d in c.disks))]
    return {
        name: build / Path(name).relative_to(called)
        for name in names
        if name and build != called and Path(name).is_relative_to(called)
    }


def trial_of_config(
    path: Path, image: Path | None, toolstack: ProofToolstack = "xl"
) -> list[Trial]:
    """The trial of somebody else's config; ``image`` is used as its first disk."""
    config = _parse(toolstack, read_bytes(path), path)
    files = {}
    if image is not None:
        first = next((d for d in config.disks if d.path and not d.cdrom), None)
        if first is None or first.path is None:
            raise SpecError("the config has no disk that the image could be", where=str(path))
        files[first.path] = image.absolute()
    return _named([config], files)


def under_each(trials: Sequence[Trial], versions: Sequence[str]) -> list[Trial]:
    """Every trial under every Xen of ``versions``; with several of them, ``ident`` says which."""
    if len(versions) == 1:
        return [replace(trial, xen=versions[0]) for trial in trials]
    return [
        replace(trial, ident=f"{trial.ident}-xen-{version}", xen=version)
        for trial in trials
        for version in versions
    ]


def _parse(toolstack: ProofToolstack, data: bytes, path: Path) -> GuestConfig:
    return (xlcfg.parse_config if toolstack == "xl" else libvirtxml.parse_xml)(data, path)


def _build_configs(build: Path, manifest: Manifest, toolstack: ProofToolstack) -> list[GuestConfig]:
    paths = [file_in(build, config.path) for config in manifest.configs(toolstack)]
    return [_parse(toolstack, read_bytes(path), path) for path in paths]


def _exists(mode: Mode, boot: ProofBoot | None) -> bool:
    return boot is None or (mode == "hvm" if boot == "uefi" else boot in ORDER[mode])


def _suits(
    config: GuestConfig, mode: Mode, boot: ProofBoot | None, image_format: DiskFormat | None
) -> bool:
    disk_format = config.disks[0].format if config.disks else None
    boots = (None, config.boot, "firmware" if config.boot == "uefi" else None)
    return config.mode == mode and boot in boots and image_format in (None, disk_format)


@dataclass(frozen=True)
class _Missing:
    """A config that a build does not have."""

    toolstack: ProofToolstack
    mode: Mode
    boot: ProofBoot | None
    format: DiskFormat | None

    def rendered(self, called: Path, manifest: Manifest, out: Path) -> GuestConfig:
        """It, written into ``out``; raises CapabilityError."""
        facts = facts_of(manifest, MANIFEST).located(str(called))
        domain = domain_for(
            facts,
            mode=self.mode,
            boot="firmware" if self.boot == "uefi" else self.boot or "auto",
            image_format=self.format,
            firmware="uefi" if self.boot == "uefi" else None,
            toolstack=self.toolstack,
        )
        text = registry.emitter_for(self.toolstack).text(domain, facts).encode()
        config = _parse(self.toolstack, text, out / "new")
        disk_format, suffix = domain.disks[0].format, registry.toolstack(self.toolstack).suffix
        name = f"{_word(config.name)}-{self.mode}-{config.boot}-{disk_format}.{suffix}"
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(text)
        return replace(config, path=out / name)


def _named(configs: list[GuestConfig], files: dict[str, Path]) -> list[Trial]:
    trials: list[Trial] = []
    for config in configs:
        disk_format = config.disks[0].format if config.disks else "none"
        base = f"{_word(config.name)}-{config.mode}-{config.boot}-{disk_format}"
        if config.toolstack != "xl":
            base += f"-{config.toolstack}"
        ident = base
        number = 2
        while any(trial.ident == ident for trial in trials):
            ident, number = f"{base}-{number}", number + 1
        trials.append(Trial(ident, config, files))
    return trials


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:64].lstrip(".-") or "guest"


def check_trial(trial: Trial) -> None:
    """Look at everything the config names before any machine starts.

    Raises SpecError for paths that are not there, ImageError for images that are damaged.
    """
    where = str(trial.config.path)
    for disk in trial.config.disks:
        if disk.path is None:
            continue
        if disk.script:
            raise SpecError(f"the disk {disk.vdev} needs the script {disk.script}", where=where)
        _check_disk(trial, disk, where)
    if trial.config.boot == "netboot":
        return
    for name in (trial.config.kernel, trial.config.ramdisk):
        if name and not name.startswith(LAB_PATHS) and not trial.host_path(name).is_file():
            raise SpecError(f"there is no file {name}", where=where)


def _check_disk(trial: Trial, disk: GuestDisk, where: str) -> None:
    path = disk.path or ""
    if not path.startswith("/") or ".." in path.split("/"):
        raise SpecError(f"{path!r} is not an absolute path", where=where)
    host = trial.host_path(path)
    if not host.exists():
        raise SpecError(f"there is no disk {host}", where=where)
    if disk.format not in ("raw", "qcow2", "vhd"):
        raise SpecError(f"{disk.format} disks cannot be proven here", where=where)
    probe(host, disk.format)
    if disk.format == "qcow2":
        qemu_img.check(host, "qcow2")
