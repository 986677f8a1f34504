"""Trees as tar files in the store, and as live directories between stages of one run."""

from __future__ import annotations

import os
from pathlib import Path

from imagekit.host import userns
from imagekit.host.run import run
from imagekit.pipeline.stage import StageRun
from imagekit.pipeline.workspace import Workspace


def pack(tree: Path, target: Path, log: Path | None = None, *, epoch: int | None) -> None:
    """Write ``tree`` to the tar file ``target``: sorted, numeric owners, extended attributes.

    /dev, /proc, /sys and /run are left empty: the guest's kernel fills them. With ``epoch``
    (seconds since 1970) no file is younger than that.
    """
    argv = ["tar", "--create", "--format=posix", "--sort=name", "--numeric-owner"]
    argv += ["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]
    argv += ["--xattrs", "--xattrs-include=security.capability", "--one-file-system"]
    argv += [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys", "run")]
    if epoch is not None:
        argv += [f"--mtime=@{epoch}", "--clamp-mtime"]
    with target.open("wb") as stream:
        run([*userns.prefix(), *argv, "-C", str(tree), "."], stdout=stream, log=log)


def unpack(source: Path, tree: Path, log: Path | None = None) -> None:
    """Extract a tar file made by :func:`pack` into the empty directory ``tree``."""
    argv = ["tar", "--extract", "--numeric-owner", "--same-owner", "--preserve-permissions"]
    argv += ["--xattrs", "--xattrs-include=security.capability", "--delay-directory-restore"]
    # Device nodes, of whoever packed it: an ordinary user makes none.
    argv += ["--exclude=./dev/*"]
    run([*userns.prefix(), *argv, "-C", str(tree), "-f", str(source)], log=log)


def open_tree(stage_run: StageRun, artefact: str, *, epoch: int | None) -> Path:
    """The tree of ``artefact`` to work in: the live one of the stage before, or unpacked.

    With ``epoch`` it is unpacked, so that its times are those of the tar file.
    """
    live = stage_run.workspace.handed_over(stage_run.inputs[artefact])
    if live is not None and epoch is None:
        return live
    source = stage_run.inputs[artefact]
    tree = stage_run.workspace.temporary("tree", size_bytes=source.stat().st_size * 2)
    unpack(source, tree, stage_run.logs / "unpack.log")
    return tree


def clamp_times(tree: Path, epoch: int) -> None:
    """Make nothing in ``tree`` younger than ``epoch``, in seconds, and the top as old as that.

    As in :func:`pack`, by the owners' rights: an ordinary user's tree has files of other ids.
    """
    touch = ["touch", "--no-dereference", f"--date=@{epoch}"]
    argv = ["find", str(tree), "-xdev", "-newermt", f"@{epoch}", "-exec", *touch, "{}", "+"]
    run([*userns.prefix(), *argv], what="setting the times of the tree")
    os.utime(tree, (epoch, epoch))


def hand_over(workspace: Workspace, artefact: Path, tree: Path) -> None:
    """Let a later stage of this run have ``tree`` instead of unpacking ``artefact``."""
    workspace.hand_over(artefact.name, tree)
