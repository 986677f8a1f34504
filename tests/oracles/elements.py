"""Makes small diskimage-builder elements for tests."""

from __future__ import annotations

import textwrap
from pathlib import Path


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
