"""The end of ``make demo``: what was made, where, and three commands to try next."""

from __future__ import annotations

import sys
from pathlib import Path

from imagekit.cli.console import size
from imagekit.kernel.report import kernel_of
from imagekit.spec.manifest import MANIFEST, read_manifest


def tell(build: Path) -> str:
    """Describe the build in the directory ``build``, from its manifest."""
    manifest = read_manifest(build)
    kernel = kernel_of(manifest, str(build / MANIFEST))
    lines = ["", f"{manifest.name} is built in {build}/:"]
    for artefact in manifest.having("disk", "kernel", "initrd", "domain-config"):
        kind = artefact.format or artefact.mode or artefact.role
        lines.append(f"  {kind:<7} {artefact.path:<24} {size(artefact.size_bytes)}")
    able = [m for m in ("pv", "pvh", "hvm") if kernel.capability(m).capable]
    lines += [
        f"Its kernel {kernel.release} boots as {', '.join(able)}.",
        "",
        "Try next:",
        f"  .venv/bin/imagekit inspect {build}/{manifest.name}.qcow2",
        f"  .venv/bin/imagekit config {build} --toolstack xl --mode pvh --boot pygrub",
        f"  .venv/bin/imagekit prove {build} --mode pv",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tell(Path(sys.argv[1])))
