"""A bill of materials of imagekit itself, by cyclonedx-py from the lock of its users."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def write_bill(root: Path, output: Path) -> int:
    """Write the CycloneDX JSON of the repository ``root``; how many packages are in it.

    Equal locks make equal bytes. Raises CalledProcessError when cyclonedx-py fails or its result
    does not fit the format's schema.
    """
    argv = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible"]
    argv += ["--validate", "--output-format", "JSON", "--output-file", str(output)]
    argv += ["--pyproject", str(root / "pyproject.toml"), str(root / "requirements/runtime.txt")]
    subprocess.run(argv, check=True)
    return len(json.loads(output.read_text())["components"])
