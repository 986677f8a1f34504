"""Makes the raw disk image: the spec's identity and files into the tree, the tree onto a disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk import bootloader, raw
from imagekit.disk.filesystem import Region, make
from imagekit.disk.layout import (
    Assembled,
    Ids,
    Layout,
    Part,
    plan_layout,
    write_assembled,
    write_table,
)
from imagekit.errors import GuestError, SpecError
from imagekit.guest.apply import apply
from imagekit.guest.backends.tree import tree_files
from imagekit.guest.changes import Change, Mkdir, Write
from imagekit.guest.from_spec import require_sources
from imagekit.host.versions import tool_versions
from imagekit.installs.context import BuildContext
from imagekit.installs.stages import overlay
from imagekit.installs.stages.lvm import assemble_lvm, plan_lvm
from imagekit.installs.stages.trees import clamp_times, open_tree
from imagekit.pipeline.stage import Stage, StageRun
from imagekit.spec.derived import effective_disk


class Image(Stage):
    """One raw image from a tree, without mounts or loop devices."""

    name: ClassVar[str] = "image"
    title: ClassVar[str] = "assembling the disk image"
    needs = ("tree.tar", "kernel.json", "release")
    makes = ("disk.raw", "layout.json")

    def __init__(self, context: BuildContext) -> None:
        self._context = context
        self._file = context.file
        self._spec = context.spec
        self._disk = effective_disk(context.spec.disk)

    def check(self) -> None:
        require_sources(self._file)

    def key(self) -> Mapping[str, Any]:
        tools = ["mke2fs", "sfdisk", "grub-mkimage"]
        tools += {"xfs": ["mkfs.xfs", "faketime"], "btrfs": ["mkfs.btrfs"]}.get(
            self._disk.filesystem, []
        )
        return {
            "disk": self._disk.model_dump(mode="json", exclude={"formats", "vhd"}),
            "boot": self._spec.boot.model_dump(mode="json", exclude={"modes"}),
            "tools": tool_versions(tools),
            "epoch": self._context.epoch,
            "seed": self._context.seed,
            **overlay.digest_of(self._file, self._context.secrets),
        }

    def run(self, run: StageRun) -> None:
        epoch = self._context.epoch
        ids = Ids(self._context.seed)
        layout = plan_layout(self._disk, ids)
        root_uuid = layout.parts[-1].fs_uuid
        cmdline = f"root=UUID={root_uuid} ro"
        if self._spec.boot.cmdline:
            cmdline += f" {self._spec.boot.cmdline}"
        tree = open_tree(run, "tree.tar", epoch=epoch)
        release = run.inputs["release"].read_text()
        self._apply(tree, layout, cmdline, release, run)
        image = run.output / "disk.raw"
        raw.create(image, layout.size)
        image.chmod(0o600)
        scratch = run.workspace.temporary("boot")
        log = run.logs / "image.log"
        write_table(layout, image)
        if layout.table != "none":
            bootloader.install_bios(layout, image, scratch, log)
            bootloader.install_efi(layout, image, scratch, epoch=epoch, log=log)
        self._fill(layout, ids, tree, image, run)
        write_assembled(Assembled(layout, cmdline), run.output / "layout.json")

    def _apply(
        self, tree: Path, layout: Layout, cmdline: str, release: str, stage_run: StageRun
    ) -> None:
        full = f"{cmdline} {bootloader.CONSOLES}"
        prefix = "" if layout.find("boot") else "/boot"
        grub_cfg = bootloader.grub_cfg(
            [
                bootloader.Entry(
                    f"{self._spec.os.distribution.capitalize()} {self._spec.os.suite}, "
                    f"Linux {release}",
                    f"{prefix}/vmlinuz-{release}",
                    f"{prefix}/initrd.img-{release}",
                )
            ],
            boot_uuid=layout.boot_part.fs_uuid,
            cmdline=full,
            timeout=self._spec.boot.timeout,
            template=None,
        )
        changes: list[Change] = [
            Write("/boot/grub/grub.cfg", grub_cfg.encode(), 0o644, "root:root")
        ]
        changes += overlay.changes(self._file, layout, full, self._context.secrets)
        changes += [Mkdir(p.mount) for p in layout.parts if p.role in ("boot", "data")]
        self._context.hide_secrets(stage_run.workspace.events)
        change_tree(tree, changes)
        epoch = self._context.epoch
        if epoch is not None:
            clamp_times(tree, epoch)

    def _fill(self, layout: Layout, ids: Ids, tree: Path, image: Path, stage_run: StageRun) -> None:
        epoch = self._context.epoch
        log = stage_run.logs / "filesystems.log"
        # Inner mount points leave the tree first, so that each file system holds its own part.
        apart = sorted((p for p in layout.parts if p.mount), key=lambda p: -len(p.mount))
        aside = stage_run.workspace.temporary("aside", size_bytes=1)
        try:
            for part in apart:
                if part.mount == "/":
                    continue
                apart_from = tree.parent / f"{aside.name}-{part.number}"
                source = _set_aside(tree, part, apart_from, epoch)
                self._make(part, source, image, epoch, log)
            for part in layout.parts:
                if part.role == "swap":
                    make("swap", None, _region(part, image), uuid=part.fs_uuid, log=log)
            root = layout.parts[-1]
            if root.role == "lvm":
                planned = plan_lvm(self._disk, root, ids, epoch=epoch)
                assemble_lvm(planned, tree, image, epoch=epoch, log=log)
            else:
                self._make(root, tree, image, epoch, log)
        except SpecError as error:
            error.where = self._file.where("disk", "size")
            raise

    def _make(self, part: Part, tree: Path, image: Path, epoch: int | None, log: Path) -> None:
        label = {"root": "root", "boot": "boot"}.get(part.role, "")
        make(
            part.filesystem,
            tree,
            _region(part, image),
            uuid=part.fs_uuid,
            label=label,
            epoch=epoch,
            log=log,
        )


def change_tree(tree: Path, changes: Sequence[Change]) -> None:
    """Carry out ``changes`` in ``tree``; raises GuestError saying which could not be."""
    with tree_files(tree) as files:
        for change in changes:
            try:
                apply(change, files)
            except GuestError as error:
                error.what = f"{change}: {error.what}"
                error.hint = error.hint or "see files and identity in the spec"
                raise


def _region(part: Part, image: Path) -> Region:
    return Region(image, part.start, part.size)


def _set_aside(tree: Path, part: Part, aside: Path, epoch: int | None) -> Path:
    inside = tree / part.mount.lstrip("/")
    if inside.is_symlink() or any(p.is_symlink() for p in inside.parents if tree in p.parents):
        raise SpecError(f"{part.mount} is a symbolic link in the guest", where="disk.partitions")
    inside.rename(aside)
    inside.mkdir()
    inside.chmod(0o755)
    if epoch is not None:
        for changed in (inside, inside.parent):
            os.utime(changed, (epoch, epoch))
    return aside
