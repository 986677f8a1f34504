"""Paths that a user types: without ``..``, which configs and manifests refuse."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

_DONE = "_takes_straight_paths"


def straight(path: Path) -> Path:
    """``path`` without ``..``, by the same way as the kernel goes it.

    What is before the last ``..`` is resolved with its symbolic links, for ``link/..`` is the
    parent of what the link names; the rest stays as it is typed, there or not.
    """
    parts = path.parts
    if ".." not in parts:
        return path
    after = len(parts) - parts[::-1].index("..")
    with contextlib.suppress(OSError, ValueError):
        return Path(os.path.realpath(Path(*parts[:after])), *parts[after:])
    return path


def taking_straight_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """``command``, which gets every path among its arguments by :func:`straight`."""

    @functools.wraps(command)
    def called(*args: Any, **options: Any) -> Any:
        straightened = {name: _straightened(value) for name, value in options.items()}
        return command(*map(_straightened, args), **straightened)

    setattr(called, _DONE, True)
    return called


def straighten(app: typer.Typer) -> None:
    """Make all commands of ``app`` and of its groups take straight paths; twice is once."""
    for info in app.registered_commands:
        if info.callback is not None and not hasattr(info.callback, _DONE):
            info.callback = taking_straight_paths(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            straighten(group.typer_instance)


def _straightened(value: Any) -> Any:
    if isinstance(value, Path):
        return straight(value)
    if isinstance(value, list):
        return [_straightened(item) for item in value]
    return value
