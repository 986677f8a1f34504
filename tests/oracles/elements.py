"""Makes small diskimage-builder elements for tests."""

from __future__ import annotations

import textwrap
from pathlib import Path

GUEST = """
name: {name}
memory: 512
os: {{suite: bookworm}}
install:
  method: {method}
  elements: [xen-guest, xen-pv-kernel, growroot, serial-console, ssh-hardening]
"""


def guest_spec(directory: Path, name: str, method: str) -> Path:
    """The spec of a guest with some of our elements; builds of equal ones share what is stored."""
    path = directory / f"{name}.yaml"
    path.write_text(GUEST.format(name=name, method=method))
    return path


def make_element(directory: Path, name: str, files: dict[str, str], deps: str = "") -> Path:
    """Write the element ``name``: relative path to content; files of phases become executable."""
    root = directory / name
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.rst").write_text(f"{name}\n")
    if deps:
        (root / "element-deps").write_text(deps)
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(content).lstrip("\n"))
        if content.lstrip().startswith("#!"):
            target.chmod(0o755)
    return root
