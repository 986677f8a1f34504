"""A build directory as tests look at it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE_NAME = "imagekit-cache"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Build:
    """A build directory with its manifest."""

    path: Path
    manifest: dict[str, Any]

    def disk(self, image_format: str) -> Path:
        """The disk in one format."""
        for artefact in self.manifest["artefacts"]:
            if artefact["role"] == "disk" and artefact["format"] == image_format:
                return self.path / str(artefact["path"])
        raise KeyError(image_format)

    def one(self, role: str, **fields: str) -> Path:
        """The one artefact with ``role`` and ``fields``."""
        found = [
            a
            for a in self.manifest["artefacts"]
            if a["role"] == role and all(a.get(k) == v for k, v in fields.items())
        ]
        assert len(found) == 1
        return self.path / str(found[0]["path"])
