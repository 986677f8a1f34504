"""Unpacks guests' kernels on the host for the lab's xl, which asks for it (``dom0/unpack.c``).

The bytes that xl gets are those that its own liblzma would make of the guest's kernel, only sooner:
in the emulated dom0 an xz-compressed kernel takes a third of a PV guest's boot to unpack. Whatever
is refused here is unpacked there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from imagekit.errors import ImagekitError
from imagekit.host.chroot import chroot
from imagekit.host.sandbox.profiles import COMPILING
from imagekit.installs.stages.trees import open_tree
from imagekit.kernel.codecs import decompress
from imagekit.pipeline.stage import Stage, StageRun

SHIPS = ("dom0/unpack.c",)
SOURCE = Path(__file__).parent / "dom0/unpack.c"
LIBRARY = "unpack.so"
COMPILE = ("gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", f"/srv/{LIBRARY}", "/srv/unpack.c")

MAX_INPUT = 64 << 20
MAX_OUTPUT = 256 << 20
DIRECTORY = "unpack"
_NAME = re.compile(r"[0-9]{1,10}-[0-9]{1,4}-([0-9]{1,10})\.xz")


class LabUnpack(Stage):
    """The library that is preloaded into xl in dom0, compiled in the build tree."""

    name: ClassVar[str] = "lab-unpack"
    title: ClassVar[str] = "compiling what hands kernels to the host"
    needs = ("rootfs.tar",)
    makes = (LIBRARY,)

    def key(self) -> Mapping[str, Any]:
        return {"command": [*COMPILE]}

    def run(self, run: StageRun) -> None:
        tree = open_tree(run, "rootfs.tar", epoch=None)
        shutil.copyfile(SOURCE, tree / "srv/unpack.c")
        chroot(
            tree,
            COMPILE,
            profile=COMPILING,
            log=run.logs / "compile.log",
            what="compiling unpack.c",
        )
        shutil.copyfile(tree / "srv" / LIBRARY, run.output / LIBRARY)


def share_directory(path: Path) -> None:
    """Make a directory that dom0 may write to: through QEMU, which is a user of its own.

    It must be below one that is closed to others. QEMU can make no links (host.confined_child), so
    that what is written by name here is written here.
    """
    path.mkdir(exist_ok=True)
    path.chmod(0o777)


class Unpacker:
    """Serves one lab: requests in ``share``/unpack, answers in ``files``/unpack."""

    def __init__(self, share: Path, files: Path) -> None:
        self._requests = share / DIRECTORY
        self._answers = files / DIRECTORY
        share_directory(self._requests)
        self._answers.mkdir(exist_ok=True)
        self._answers.chmod(0o755)

    def serve(self) -> None:
        """Answer what was asked since the last call; dom0 is never believed to mean well."""
        with os.scandir(self._requests) as entries:
            asked = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        for name in asked:
            match = _NAME.fullmatch(name)
            if match is not None:
                self._answer(name, int(match[1]))

    def _answer(self, name: str, size: int) -> None:
        request = self._requests / name
        answer = self._answers / name.removesuffix(".xz")
        data = _unpacked(request, size)
        request.unlink()
        if data is None:
            answer.with_name(f"{answer.name}.refused").touch()
            return
        part = answer.with_name(f"{answer.name}.part")
        part.write_bytes(data)
        part.chmod(0o644)
        part.rename(answer)


def _unpacked(request: Path, size: int) -> bytes | None:
    """The content of the xz file ``request``, or None unless it is exactly ``size`` bytes."""
    if size > MAX_OUTPUT:
        return None
    fd = os.open(request, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as stream:
        data = stream.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        return None
    try:
        found = decompress(data, "xz", where=str(request), limit=size)
    except ImagekitError:
        return None
    return found if len(found) == size else None
