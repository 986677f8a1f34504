"""A linter for images of any origin: what would go wrong under Xen, and the repair where safe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import SpecError
from imagekit.guest.appliance import Appliance, Drive, appliance
from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.checks import CHECKS, FIXES
from imagekit.guest.findings import ORDER, Finding, Subject
from imagekit.guest.inspect import survey
from imagekit.guest.mounts import mount_guest
from imagekit.guest.selinux import relabel
from imagekit.guest.working import readable_copy, working_copy
from imagekit.pipeline.workspace import Workspace

MODES = ("pv", "pvh", "hvm")


@dataclass(frozen=True)
class Fixed:
    """Result of a repair: what was ``repaired`` and what is ``left``."""

    repaired: tuple[Finding, ...]
    left: tuple[Finding, ...]


def check(
    image: Path,
    image_format: str,
    modes: Sequence[str] = (),
    *,
    workspace: Workspace,
    golden: bool = False,
) -> list[Finding]:
    """What is wrong with ``image`` (raw, qcow2 or vhd), worst first; it is only read.

    ``modes`` are those it must boot in; without any, one that works is enough. ``golden`` asks for
    an image that instances are cloned from. Raises ImageError, BusyError, HostError, SpecError.
    """
    asked = _modes(modes)
    with readable_copy(image, image_format, workspace=workspace) as copy:
        size = copy.virtual_size
        with appliance([Drive(copy.path, copy.format)], workspace=workspace) as app:
            _subject, found = _examine(app, image_format, size, asked, workspace, golden=golden)
    return found


def check_and_fix(
    image: Path,
    image_format: str,
    modes: Sequence[str] = (),
    *,
    workspace: Workspace,
    golden: bool = False,
) -> Fixed:
    """As :func:`check`, with every fixable finding repaired; the image changes whole or not at all.

    Raises GuestError as well, when a repair fails.
    """
    asked = _modes(modes)
    with working_copy(image, image_format, workspace=workspace) as copy:
        size = copy.virtual_size
        drive = Drive(copy.path, copy.format, readonly=False)
        with appliance([drive], workspace=workspace) as app:
            before, found = _examine(app, image_format, size, asked, workspace, golden=golden)
            codes = {finding.code for finding in found if finding.fixable}
            if before is None or not codes:
                return Fixed((), tuple(found))
            app.call("umount_all")
            root = mount_guest(app, None, readonly=False, disk=before.inspection.disk)
            files = ApplianceFiles(app)
            subject = Subject(before.inspection, files, root, asked, golden)
            for code, fix in FIXES.items():
                if code in codes:
                    workspace.events.emit("change", text=f"fix {code}")
                    fix(subject)
            relabel(files)
            app.call("umount_all")
            _after, left = _examine(app, image_format, size, asked, workspace, golden=golden)
            app.finish()
        copy.commit()
    remaining = {(finding.code, finding.what) for finding in left}
    gone = tuple(f for f in found if (f.code, f.what) not in remaining)
    return Fixed(gone, tuple(left))


def _modes(modes: Sequence[str]) -> tuple[str, ...]:
    for mode in modes:
        if mode not in MODES:
            raise SpecError(f"{mode!r} is not a mode", hint="use one of " + ", ".join(MODES))
    return tuple(dict.fromkeys(modes))


def _examine(
    app: Appliance,
    image_format: str,
    size: int,
    asked: tuple[str, ...],
    workspace: Workspace,
    *,
    golden: bool,
) -> tuple[Subject | None, list[Finding]]:
    inspection = survey(app, image_format, size, workspace.temporary("kernels"))
    if inspection.root is None or not inspection.root.system:
        reason = "; ".join(inspection.warnings) or "no operating system was found"
        consequence = "whether the image boots cannot be told from inside"
        nothing = Finding("no-system", "error", "all", reason, consequence, "is --format right?")
        return None, [nothing]
    subject = Subject(inspection, ApplianceFiles(app), inspection.root, asked, golden)
    found = [finding for check_one in CHECKS for finding in check_one(subject)]
    return subject, sorted(found, key=lambda finding: ORDER[finding.severity])
