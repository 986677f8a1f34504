"""What an installer left on the disk becomes an image: checked, repaired, its kernel taken out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.disk.extents import copy_sparse
from imagekit.errors import CapabilityError, ImageError
from imagekit.guest.appliance import Appliance, Drive, appliance
from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.check import check_and_fix
from imagekit.guest.files import GuestFiles
from imagekit.guest.from_spec import require_sources
from imagekit.guest.inspect import survey
from imagekit.guest.inspection import Inspection
from imagekit.guest.kernels import MAX_INITRD, MAX_KERNEL, GuestKernel
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.bootequipment import boot_equipment, chosen_entry, write_equipment
from imagekit.installs.stages.imagechanges import (
    add_accounts_and_files,
    changes_key,
    run_scripts,
)
from imagekit.kernel.capability import require_mode
from imagekit.kernel.report import write_report
from imagekit.pipeline.stage import Stage, StageRun

MAX_STATUS = 64 << 20


class Harvest(Stage):
    """Makes the installed disk fit for Xen and reads from it what the configs need.

    Consoles, drivers in the initrd (regenerated in the guest), names of disks and interfaces are
    repaired; with ``golden`` machine identity is removed. The spec's scripts run before that, its
    accounts and files come after it. What remains wrong for a mode of the spec is an error.
    """

    name: ClassVar[str] = "harvest"
    title: ClassVar[str] = "inspecting and repairing the installed image"
    needs = ("installed.raw",)
    makes = ("disk.raw", "kernel", "initrd", "kernel.json", "harvest.json", "packages.json")

    def __init__(self, context: BuildContext, *, golden: bool) -> None:
        self._context = context
        self._file = context.file
        self._golden = golden

    def check(self) -> None:
        require_sources(self._file)

    def key(self) -> Mapping[str, Any]:
        modes = sorted(self._file.spec.boot.modes)
        return {"golden": self._golden, "modes": modes, **changes_key(self._context)}

    def run(self, run: StageRun) -> None:
        disk = run.output / "disk.raw"
        copy_sparse(run.inputs["installed.raw"], disk)
        disk.chmod(0o600)
        run_scripts(self._context, disk, run)
        modes = self._file.spec.boot.modes
        done = check_and_fix(disk, "raw", modes, workspace=run.workspace, golden=self._golden)
        for finding in done.repaired:
            run.note(f"repaired: {finding.what}")
        errors = [f for f in done.left if f.severity == "error"]
        for finding in done.left:
            if finding.severity != "error":
                run.note(f"left as it is: {finding.what}")
        if errors:
            raise CapabilityError(
                f"the installed system would not boot under Xen: {errors[0].what}; "
                f"{errors[0].consequence}",
                where=self._file.where("boot", "modes"),
                hint=errors[0].fix,
            )
        scratch = run.workspace.temporary("kernels")
        drive = Drive(disk, "raw", readonly=False)
        with appliance([drive], workspace=run.workspace) as app:
            add_accounts_and_files(self._context, app, run)
            found = survey(app, "raw", disk.stat().st_size, scratch)
            kernel = chosen_kernel(found)
            files = ApplianceFiles(app)
            _take_out(files, kernel, run.output)
            packages = installed_packages(app, files, found, scratch / "status")
            app.call("umount_all")
            app.finish()
        (run.output / "packages.json").write_text(json.dumps(packages, indent=1))
        self._judge(kernel, run.output)
        write_equipment(boot_equipment(found), run.output / "harvest.json")

    def _judge(self, kernel: GuestKernel, output: Path) -> None:
        report = kernel.report
        if report is None:
            raise ImageError(f"the kernel cannot be read: {kernel.problem}", where=kernel.path)
        for mode in self._file.spec.boot.modes:
            try:
                require_mode(report, mode)
            except CapabilityError as error:
                error.where = self._file.where("boot", "modes")
                raise
        write_report(report, output / "kernel.json")


def chosen_kernel(found: Inspection) -> GuestKernel:
    """The kernel that the image boots by default, else the newest. Raises ImageError."""
    entry = chosen_entry(found)
    if entry is not None:
        name = entry.kernel.rpartition("/")[2]
        for kernel in found.kernels:
            if kernel.path.rpartition("/")[2] == name and kernel.initrd:
                return kernel
    with_initrd = [k for k in found.kernels if k.initrd]
    if not with_initrd:
        raise ImageError("the installed system has no kernel with an initrd in /boot")
    return with_initrd[0]


def _take_out(files: GuestFiles, kernel: GuestKernel, output: Path) -> None:
    for name, path, limit in (
        ("kernel", kernel.path, MAX_KERNEL),
        ("initrd", kernel.initrd or "", MAX_INITRD),
    ):
        if not files.download(path, output / name, limit):
            raise ImageError(f"{path} is not there, or is too large", where="the installed image")


def installed_packages(
    app: Appliance, files: GuestFiles, found: Inspection, scratch: Path
) -> list[dict[str, str]]:
    """Name, version and architecture of every package: dpkg's own file, or libguestfs for RPM.

    ``scratch`` is a file to be made.

    Raises GuestError when the database of an RPM system cannot be read.
    """
    if files.download("/var/lib/dpkg/status", scratch, MAX_STATUS):
        return list(read_dpkg_status(scratch.read_text("utf-8", "replace")))
    if found.root is None:
        return []
    listed = app.call("inspect_list_applications2", found.root.device)
    return [
        {
            "name": str(item["app2_name"]),
            "version": "-".join(
                str(item[k]) for k in ("app2_version", "app2_release") if item.get(k)
            ),
            "architecture": str(item.get("app2_arch", "")),
        }
        for item in listed
    ]


def read_dpkg_status(text: str) -> Iterator[dict[str, str]]:
    """The installed packages of a dpkg status file (deb-status(5))."""
    for stanza in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in stanza.splitlines()
            if ": " in line and not line.startswith((" ", "\t"))
        )
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            yield {
                "name": fields["Package"],
                "version": fields.get("Version", ""),
                "architecture": fields.get("Architecture", ""),
            }
