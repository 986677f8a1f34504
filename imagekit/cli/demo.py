"""The end of ``make demo``: what was made, where, and three commands to try next."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from imagekit.cli.console import size


def tell(build: Path) -> str:
    """Describe the build in the directory ``build``, from its manifest."""
    manifest = json.loads((build / "manifest.json").read_text())
    lines = ["", f"{manifest['name']} is built in {build}/:"]
    for artefact in manifest["artefacts"]:
        if artefact["role"] in ("disk", "kernel", "initrd", "domain-config"):
            kind = artefact.get("format") or artefact.get("mode") or artefact["role"]
            lines.append(f"  {kind:<7} {artefact['path']:<24} {size(artefact['bytes'])}")
    able = [m for m in ("pv", "pvh", "hvm") if manifest["kernel"][m]["capable"]]
    lines += [
        f"Its kernel {manifest['kernel']['release']} boots as {', '.join(able)}.",
        "",
        "Try next:",
        f"  .venv/bin/imagekit inspect {build}/{manifest['name']}.qcow2",
        f"  .venv/bin/imagekit config {build} --toolstack xl --mode pvh --boot pygrub",
        f"  .venv/bin/imagekit prove {build} --mode pv",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tell(Path(sys.argv[1])))
