"""Turns a tree of packages into a system: services, the user's scripts, one small initrd."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import ImageError, ImagekitError, SpecError, ToolError
from imagekit.guest.backends.tree import TreeFiles, run_in_tree, tree_files
from imagekit.guest.files import GuestFiles
from imagekit.guest.from_spec import digest_of_scripts, require_sources, script_changes
from imagekit.host.chroot import chroot
from imagekit.host.opening import Held, open_at
from imagekit.host.sandbox.profiles import INITRD, LISTING
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.trees import hand_over, open_tree, pack
from imagekit.installs.tree_packages import needs_locales, tree_install
from imagekit.kernel import reading
from imagekit.pipeline.digests import tree_digest
from imagekit.pipeline.stage import Stage, StageRun, digest_file

XEN_DRIVERS = ("xen-blkfront", "xen-netfront")
OTHER_DRIVERS = (
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "ahci",
    "ata_piix",
    "sd_mod",
    "sr_mod",
)
MAX_KERNEL_BYTES = 512 << 20
LOG_TAIL = 1 << 20
"""Bytes of a log in which a failure is looked for."""
VERSIONED = re.compile(r"vmlinuz-(.+)")


class System(Stage):
    """Scripts run in the chroot, then the initrd is generated, once, with the drivers of Xen."""

    name: ClassVar[str] = "system"
    title: ClassVar[str] = "running scripts and making the initrd"
    makes = ("tree.tar", "kernel", "initrd", "kernel.config", "release")

    def __init__(self, context: BuildContext, tree: str = "rootfs.tar") -> None:
        """``tree`` names the artefact to work on: a tar file of packages, not yet a system."""
        self.needs = (tree,)
        file = context.file
        self._file = file
        self._spec = file.spec
        self._epoch = context.epoch
        install = tree_install(file.spec)
        self._kernel_file = (
            file.resolve(install.kernel) if install.kernel and "/" in install.kernel else None
        )
        self._initrd_file = file.resolve(install.initrd) if install.initrd else None
        self._modules = file.resolve(install.modules) if install.modules else None

    def check(self) -> None:
        require_sources(self._file)
        for path, field in ((self._kernel_file, "kernel"), (self._initrd_file, "initrd")):
            if path is not None and not path.is_file():
                raise SpecError(f"there is no {path}", where=self._file.where("install", field))
        if self._modules is not None and not self._modules.is_dir():
            raise SpecError(
                f"the directory {self._modules} does not exist",
                where=self._file.where("install", "modules"),
            )
        if self._kernel_file and not (self._initrd_file or self._modules):
            raise SpecError(
                "a kernel file needs its modules (to make an initrd) or an initrd",
                where=self._file.where("install", "kernel"),
                hint="name install.modules or install.initrd",
            )

    def drivers(self) -> list[str]:
        """Modules the initrd must hold: Xen's, what plain QEMU and HVM need, the file systems."""
        disk = self._spec.disk
        filesystems = {disk.filesystem, *(["dm-mod"] if disk.lvm else [])}
        extra = [m for m in tree_install(self._spec).initrd_modules]
        return [*XEN_DRIVERS, *OTHER_DRIVERS, *sorted(filesystems), *extra]

    def key(self) -> Mapping[str, Any]:
        return {
            "scripts": digest_of_scripts(self._file),
            "drivers": self.drivers(),
            "kernel": digest_file(self._kernel_file) if self._kernel_file else None,
            "initrd": digest_file(self._initrd_file) if self._initrd_file else None,
            "modules": tree_digest(self._modules) if self._modules else None,
            "locale": self._spec.identity.locale,
        }

    def run(self, run: StageRun) -> None:
        tree = open_tree(run, self.needs[0], epoch=self._epoch)
        log = run.logs / "chroot.log"
        services = ["systemd-networkd.service", "systemd-resolved.service"]
        chroot(tree, ["systemctl", "enable", *services], log=log, what="enabling services")
        if needs_locales(self._spec):
            self._generate_locale(tree, log)
        # What scripts and elements left is not trusted: a link of the tree is not one of the host.
        with tree_files(tree) as files:
            self._run_scripts(files, tree, run)
            release = self._place_kernel(files, tree)
            self._make_initrd(files, tree, release, log)
            for name, path in (
                ("kernel", f"/boot/vmlinuz-{release}"),
                ("initrd", f"/boot/initrd.img-{release}"),
                ("kernel.config", f"/boot/config-{release}"),
            ):
                copy_out(files, path, run.output / name, required=name != "kernel.config")
        (run.output / "release").write_text(release)
        pack(tree, run.output / "tree.tar", run.logs / "tar.log", epoch=self._epoch)
        hand_over(run.workspace, run.output / "tree.tar", tree)

    def _generate_locale(self, tree: Path, log: Path) -> None:
        name, _, charset = self._spec.identity.locale.partition(".")
        language, _, modifier = name.partition("@")
        source = f"{language}@{modifier}" if modifier else language
        argv = ["localedef", "-i", source, "-f", charset or "UTF-8", self._spec.identity.locale]
        try:
            chroot(tree, argv, log=log, what="generating the locale")
        except ToolError as error:
            raise SpecError(
                f"the locale {self._spec.identity.locale} cannot be generated: "
                f"{error.output.strip().splitlines()[-1] if error.output.strip() else 'unknown'}",
                where=self._file.where("identity", "locale"),
            ) from None

    def _run_scripts(self, files: TreeFiles, tree: Path, run: StageRun) -> None:
        scripts = script_changes(self._file, self._epoch)
        for index, script in enumerate(scripts):
            run.progress(index, len(scripts) + 1)
            log = run.logs / f"script-{index}-{script.name}.log"
            try:
                run_in_tree(script, files, tree, log)
            except ImagekitError as error:
                error.where = self._file.where("scripts", index)
                raise

    def _place_kernel(self, files: GuestFiles, tree: Path) -> str:
        """Put the named kernel into the tree, or find the newest there; returns its release."""
        if self._kernel_file is None:
            found = [m[1] for name in files.names("/boot") if (m := VERSIONED.fullmatch(name))]
            if not found:
                raise SpecError(
                    "no package brought a kernel to /boot",
                    where=self._file.where("install", "packages"),
                    hint="name install.kernel",
                )
            return max(found, key=_version_key)
        release = reading.release(self._kernel_file)
        if not release or not re.fullmatch(r"[A-Za-z0-9_.+~-]+", release):
            raise ImageError(
                f"{self._kernel_file} does not tell its release",
                hint="name a bzImage as make bzImage builds it",
            )
        files.write(f"/boot/vmlinuz-{release}", self._kernel_file, mode=0o644)
        if self._modules is not None:
            place_modules(files, tree, self._modules, release)
            chroot(tree, ["depmod", release], profile=LISTING, what="indexing the kernel's modules")
        if self._initrd_file is not None:
            files.write(f"/boot/initrd.img-{release}", self._initrd_file, mode=0o644)
        return release

    def _make_initrd(self, files: GuestFiles, tree: Path, release: str, log: Path) -> None:
        # MODULES=list keeps the initrd small and the same wherever it is made; it is the guest's
        # own setting from now on, so that its kernel upgrades keep Xen's drivers.
        settings = b"MODULES=list\nRESUME=none\n"
        files.write("/etc/initramfs-tools/conf.d/imagekit", settings, mode=0o644)
        files.write_text(
            "/etc/initramfs-tools/modules",
            "# Written by imagekit: what this guest boots with under Xen, and elsewhere.\n"
            + "".join(f"{name}\n" for name in self.drivers()),
        )
        if self._initrd_file is not None:
            return
        # Verbose, so that the log says which hook it is at.
        argv = ["mkinitramfs", "-v", "-o", f"/boot/initrd.img-{release}", release]
        try:
            chroot(tree, argv, profile=INITRD, log=log, what="making the initrd")
        except ToolError as error:
            hook = last_hook(log)
            if hook is not None:
                error.what += f"; its hook {hook} was the last to run"
            raise


def last_hook(log: Path) -> str | None:
    """The hook that mkinitramfs -v (call_scripts in hook-functions) started last, by its log."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_TAIL))
        text = stream.read().decode("utf-8", "replace")
    found = re.findall(r"(?m)^Calling hook ([\w.+-]{1,80})$", text)
    return str(found[-1]) if found else None


def place_modules(files: GuestFiles, tree: Path, modules: Path, release: str) -> None:
    """Copy a directory of modules into the tree, where there are none of this release."""
    files.make_directory("/usr/lib/modules")
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        held = Held(open_at(root, "usr/lib/modules", os.O_RDONLY | os.O_DIRECTORY, links="root"))
    finally:
        os.close(root)
    try:
        if release not in held.names():
            shutil.copytree(modules, held.path(release), symlinks=True)
    finally:
        held.close()


def copy_out(files: GuestFiles, path: str, target: Path, *, required: bool) -> None:
    """Copy a regular file of the tree out; without one make an empty file, unless it is required.

    Raises ImageError.
    """
    real = files.resolve(path, final=False)
    status = files.lstat(real)
    if status is None or not status.is_file:
        if required:
            raise ImageError(f"the tree has no regular file {path}")
        target.write_bytes(b"")
        return
    if not files.download(real, target, MAX_KERNEL_BYTES):
        raise ImageError(f"{path} is larger than 512 MiB")


def _version_key(release: str) -> list[tuple[int, int, str]]:
    return [
        (1, int(part), "") if part.isdigit() else (0, 0, part)
        for part in re.findall(r"\d+|\D+", release)
    ]
