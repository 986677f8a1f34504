"""The three guests of the self-check: their configs, their files, and what they should say."""

from __future__ import annotations

from pathlib import Path

from imagekit.kernel.image import load_kernel
from imagekit.proof import initrd
from imagekit.proof.boots import Trial
from imagekit.proof.checkprograms import Programs
from imagekit.proof.xlcfg import parse_config

HOME = "/var/lib/imagekit-selfcheck"
"""Where dom0 sees the guests' files."""

_DIRECT = """\
name = "lab-{mode}"
type = "{mode}"
memory = 256
kernel = "{home}/kernel"
ramdisk = "{home}/initrd"
cmdline = "console=hvc0 quiet panic=1"
"""
_HVM = """\
name = "lab-hvm"
type = "hvm"
memory = 64
boot = "c"
disk = ["format=raw, vdev=xvda, access=rw, target={home}/disk"]
serial = "pty"
vnc = 0
vga = "none"
"""


def check_trials(kernel: Path, programs: Programs, directory: Path) -> list[Trial]:
    """PV, PVH and HVM guest, in this order; ``kernel`` is a bzImage. Writes into ``directory``.

    The kernel is handed over unpacked: dom0 would take longer to do it.
    """
    image = load_kernel(kernel)
    files = {
        f"{HOME}/kernel": directory / "kernel",
        f"{HOME}/initrd": directory / "initrd",
        f"{HOME}/disk": programs.disk,
    }
    (directory / "kernel").write_bytes(image.payload or kernel.read_bytes())
    (directory / "initrd").write_bytes(_initrd(programs))
    trials = []
    for mode, text in (("pv", _DIRECT), ("pvh", _DIRECT), ("hvm", _HVM)):
        data = text.format(mode=mode, home=HOME).encode()
        config = parse_config(data, directory / f"lab-{mode}.cfg")
        trials.append(Trial(f"lab-{mode}", config, files))
    return trials


def _initrd(programs: Programs) -> bytes:
    return initrd.newc(
        [
            initrd.directory("dev"),
            initrd.Item("dev/console", 0o020600, device=(5, 1)),
            initrd.file("init", programs.registers.read_bytes(), 0o755),
        ]
    )
