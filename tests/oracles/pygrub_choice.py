"""Asks the real pygrub what it would boot. Run with Xen's Python; JSON in, JSON out.

``python3 pygrub_choice.py /usr/lib/xen-X/bin/pygrub < [{"PATH": "TEXT", ...}, ...]`` prints a list
of ``{"kernel", "ramdisk", "args"}`` or ``{"error"}`` per file system. The program itself is loaded
and its ``run_grub`` called with a file system that exists in memory only.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import json
import logging
import sys
from contextlib import redirect_stderr
from typing import Any


class Files:
    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def file_exists(self, path: str) -> bool:
        return path in self._files

    def open_file(self, path: str) -> OpenFile:
        return OpenFile(self._files[path].encode())


class OpenFile:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, offset: int = 0) -> bytes:
        return self._data[offset : offset + size]


def load(path: str) -> Any:
    sys.path.insert(0, path.rsplit("/", 2)[0] + "/lib/python")
    loader = importlib.machinery.SourceFileLoader("pygrub", path)
    spec = importlib.util.spec_from_loader("pygrub", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    module.list_entries = False  # type: ignore[attr-defined]
    module.interactive = False  # type: ignore[attr-defined]
    return module


def ask(pygrub: Any, files: dict[str, str]) -> dict[str, Any]:
    try:
        with redirect_stderr(io.StringIO()):
            choice = pygrub.run_grub("/dev/null", None, Files(files), "")
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return dict(choice) if choice["kernel"] else {"error": "no kernel"}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    program = load(sys.argv[1])
    json.dump([ask(program, files) for files in json.load(sys.stdin)], sys.stdout)
