"""Kernels, initrds and boot menus of strangers, read by a worker that can do nothing else.

The door for all that comes from an image, an ISO, a network or a user. The parsers behind it are
plain functions of bytes; ``imagekit.host.worker`` says what stands around them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import ImageError
from imagekit.host.worker import MIB, Confined, Limits
from imagekit.kernel import bootfindings, grub2, image, initrd, kconfig, pygrub
from imagekit.kernel.bootmenu import BootMenu, Finding
from imagekit.kernel.capability import judge
from imagekit.kernel.pygrub import PygrubChoice, PygrubRefusal
from imagekit.kernel.report import KernelReport

# A kernel and what it unpacks to have limits of 512 MiB each, and are held twice at most.
_KERNEL = Limits(memory=2048 * MIB, cpu_seconds=120, answer=4 * MIB)
# The configurations of one file system are 13 MiB at most, the menus 10,000 entries of 4 MiB.
_MENUS = Limits(memory=1024 * MIB, cpu_seconds=60, answer=64 * MIB)


def examine(
    kernel: Path, *, initrd: Path | None = None, config: Path | None = None
) -> KernelReport:
    """What ``kernel`` and what comes with it can boot as; see ``capability.examine``.

    Raises SpecError (unreadable path), ImageError.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(image.opened_file(kernel, "kernel"))]
        if initrd is not None:
            files.append(stack.enter_context(image.opened_file(initrd, "initrd")))
        if config is not None:
            files.append(stack.enter_context(image.opened_file(config, "kernel configuration")))
        names = (initrd.name if initrd else None, str(config) if config else None)
        return _EXAMINE(str(kernel), files, str(kernel), *names)


def release(kernel: Path) -> str | None:
    """The release of a kernel file, None when it does not tell; raises SpecError, ImageError."""
    with image.opened_file(kernel, "kernel") as fd:
        return _RELEASE(str(kernel), [fd], str(kernel))


@dataclass(frozen=True)
class Menus:
    """The boot menus of one file system: what pygrub boots, and GRUB's own menu if asked for and
    readable."""

    pygrub: PygrubChoice | PygrubRefusal
    grub: BootMenu | None = None


def menus(
    texts: Mapping[str, str], *, grub_config: str | None = None, grubenv: str = "", where: str
) -> Menus:
    """What the configurations ``texts`` (path to text) of one file system say.

    GRUB's menu is that of ``grub_config``, one of them, with the environment block ``grubenv``.
    ``where`` names the file system in errors. Raises ImageError when they cannot be read at all.
    """
    return _MENUS_OF(where, [], dict(texts), grub_config, grubenv)


def differences(text: str, *, source: str) -> tuple[Finding, ...]:
    """Where pygrub reads a grub.cfg otherwise than GRUB (``bootfindings``); raises ImageError."""
    return _DIFFERENCES(source, [], text, source)


def prepare() -> None:
    """Let the reader start while something else is waited for."""
    _EXAMINE.warm()


def _examined(
    files: tuple[int, ...], name: str, initrd_name: str | None, config_name: str | None
) -> KernelReport:
    left = list(files)
    loaded = image.read_kernel(
        image.read_open(left.pop(0), image.MAX_FILE, "kernel", name), name=name
    )
    ramdisk = config = None
    if initrd_name is not None:
        data = image.read_open(left.pop(0), initrd.MAX_FILE, "initrd", initrd_name)
        ramdisk = initrd.parse_initrd(data, name=initrd_name)
    if config_name is not None:
        data = image.read_open(left.pop(0), kconfig.MAX_FILE, "kernel configuration", config_name)
        config = kconfig.parse_config(data.decode("utf-8", "replace"), name=config_name)
    return judge(loaded, initrd=ramdisk, config=config)


def _release(files: tuple[int, ...], name: str) -> str | None:
    data = image.read_open(files[0], image.MAX_FILE, "kernel", name)
    return image.read_kernel(data, name=name).release


def _menus_of(
    _files: tuple[int, ...], texts: dict[str, str], grub_config: str | None, grubenv: str
) -> Menus:
    choice = pygrub.pygrub_view(texts)
    if grub_config is None:
        return Menus(choice)
    variables = grub2.parse_grubenv(grubenv)
    try:
        menu = grub2.read_grub2(texts[grub_config], grubenv=variables, source=grub_config)
    except ImageError:
        return Menus(choice)
    return Menus(choice, menu)


def _differences(_files: tuple[int, ...], text: str, source: str) -> tuple[Finding, ...]:
    return bootfindings.findings(text, source=source)


_EXAMINE = Confined(_examined, "the kernel, or its initrd,", _KERNEL)
_RELEASE = Confined(_release, "the kernel", _KERNEL)
_MENUS_OF = Confined(_menus_of, "the boot configuration", _MENUS)
_DIFFERENCES = Confined(_differences, "the boot configuration", _MENUS)
