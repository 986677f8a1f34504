"""A directory in place of a mounted guest, for what only reads and writes files of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class DirectoryGuest:
    """The calls of GuestFiles on a directory of the host; modes of files are kept."""

    def __init__(self, root: Path, **files: str) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        for name, text in files.items():
            self.write(name, text.encode())

    def place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def stat(self, path: str) -> Any:
        place = self.place(path)
        return Status(place) if place.exists() else None

    def lstat(self, path: str) -> Any:
        return self.stat(path)

    def names(self, path: str) -> list[str]:
        return sorted(p.name for p in self.place(path).glob("*"))

    def peek(self, path: str) -> str:
        return self.text(path) or ""

    def text(self, path: str) -> str | None:
        return self.place(path).read_text() if self.place(path).is_file() else None

    def write(self, path: str, content: bytes, *, mode: int = 0o644, owner: object = None) -> str:
        self.place(path).parent.mkdir(parents=True, exist_ok=True)
        self.place(path).write_bytes(content)
        self.place(path).chmod(mode)
        return path

    def write_text(self, path: str, text: str) -> None:
        self.place(path).write_text(text)

    def remove(self, path: str) -> bool:
        there = self.place(path).exists()
        self.place(path).unlink(missing_ok=True)
        return there


class Status:
    """What lstat says of a file of the directory."""

    def __init__(self, place: Path) -> None:
        self.is_directory = place.is_dir()
        self.is_file = place.is_file()
