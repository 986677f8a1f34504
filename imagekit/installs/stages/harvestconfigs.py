"""Facts and domain configs of an image that an installer made."""

from __future__ import annotations

from dataclasses import replace

from imagekit.domain.facts import BuildFacts, DiskFacts
from imagekit.installs.build_facts import disk_path, facts_for, trial_image
from imagekit.installs.stages.bootequipment import BootEquipment, read_equipment
from imagekit.installs.stages.configs import Configs
from imagekit.kernel.report import Bootable, read_report
from imagekit.pipeline.stage import StageRun
from imagekit.spec.model import Spec


class HarvestedConfigs(Configs):
    """Domain configs of an image whose boot equipment was made by an installer."""

    needs = ("kernel.json", "harvest.json", "kernel", "initrd", "disk.raw")

    def _facts(self, run: StageRun) -> BuildFacts:
        kernel = read_report(run.inputs["kernel.json"])
        image = read_equipment(run.inputs["harvest.json"])
        return harvested(self._spec, kernel, image, run.inputs["disk.raw"].stat().st_size)


def harvested(spec: Spec, kernel: Bootable, image: BootEquipment, size: int) -> BuildFacts:
    """The facts of a harvested image; ``size`` is the disk's in bytes."""
    # The machine is the spec's, as in every build; what boots it is what the installer made.
    return replace(
        facts_for(spec, kernel, trial_image(spec)),
        disks=(DiskFacts({f: disk_path(spec, f) for f in spec.disk.formats}, size),),
        pygrub=image.pygrub,
        cmdline=image.cmdline,
        partition_table=image.partition_table,
        boot_filesystem=image.boot_filesystem,
        grub_config=image.grub_config,
        bootloader_bios=image.bootloader_bios,
        bootloader_uefi=image.bootloader_uefi,
    )
