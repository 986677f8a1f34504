"""What the methods that run an installer share while they plan, however it is started."""

from __future__ import annotations

from imagekit.errors import SpecError
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.answers import template_digests
from imagekit.installs.stages.lockfile import InstalledLock
from imagekit.pipeline.stage import Target
from imagekit.spec.install import Iso, Netboot
from imagekit.spec.load import SpecFile


def installed_lock(
    context: BuildContext, install: Iso | Netboot, *, iso: str | None = None
) -> InstalledLock:
    """The stage that writes the lock of what an installer made.

    With a lock the template must be the lock's, and so must the packages when it is done. ``iso``
    is the artefact of the verified ISO, if there is one. Raises SpecError.
    """
    templates = template_digests(context.file, install)
    if context.lock is not None and context.lock.templates != templates:
        raise SpecError(
            "the answers' template has changed since the lock was made",
            where=context.file.where("install", "template"),
        )
    return InstalledLock(context, "packages.json", {"templates": templates}, iso=iso)


def answers_target(file: SpecFile) -> Target:
    """The answers as they are delivered: they hold password hashes."""
    return Target("answers", f"{file.spec.name}.answers", "answers", 0o600)


def refuse_lock(context: BuildContext) -> None:
    """Raise SpecError for a lock: what installs on another host cannot be held to it here."""
    if context.lock is not None:
        raise SpecError(
            "nothing is installed here that could be compared with the lock",
            where=context.file.where("install", "on_host"),
        )


def refuse_unused(file: SpecFile) -> None:
    """Parts of a spec that no installer is told about would silently be left out."""
    spec = file.spec
    on_host = isinstance(spec.install, Iso | Netboot) and spec.install.on_host
    for field, given in (("files", spec.files), ("scripts", spec.scripts)):
        if given and on_host:
            raise SpecError(
                f"{field} are not put into a guest that is installed on another host",
                where=file.where(field),
                hint="use imagekit inject on the installed image, or your own answers template",
            )
    if spec.disk.table == "none":
        raise SpecError("an installer needs a partition table", where=file.where("disk", "table"))
    if spec.disk.filesystem == "btrfs":
        raise SpecError(
            "the answers know ext4 and xfs, not btrfs", where=file.where("disk", "filesystem")
        )
