"""How the program speaks: a progress bar on a terminal, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO

from imagekit.pipeline.events import Event, Events, JsonLines, PlainLines, plain_line


@contextlib.contextmanager
def events_for(json_output: bool, stream: TextIO | None = None) -> Iterator[Events]:
    """Events shown on standard error (``--json``: on standard output, one object a line)."""
    stream = stream or sys.stderr
    if json_output:
        yield Events([JsonLines(sys.stdout)])
    elif not stream.isatty():
        yield Events([PlainLines(stream)])
    else:
        with _bar() as sink:
            yield Events([sink])


@contextlib.contextmanager
def _bar() -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        sink = _Bar(progress)
        yield sink


class _Bar:
    """A rich progress bar per running stage; finished stages scroll by as lines."""

    def __init__(self, progress: object) -> None:
        from rich.progress import Progress, TaskID

        if not isinstance(progress, Progress):
            raise TypeError("a rich Progress is needed")
        self._progress: Progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        stage = str(event.fields.get("stage", ""))
        if event.kind == "stage-started":
            title = f"{stage}: {event.fields['title']}"
            self._tasks[stage] = self._progress.add_task(title, total=None)
            return
        if event.kind == "progress" and stage in self._tasks:
            self._progress.update(
                self._tasks[stage],
                total=event.fields["total"],
                completed=event.fields["done"],
            )
            return
        if (
            event.kind in ("stage-finished", "stage-failed", "stage-stopped")
            and stage in self._tasks
        ):
            self._progress.remove_task(self._tasks.pop(stage))
        line = plain_line(event)
        if line:
            self._progress.console.print(line, highlight=False, markup=False)


def size(value: int) -> str:
    """``value`` bytes for a person: "412 MiB"."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value} B"
