"""A secret that is given by a file, so that no other user sees it among the arguments."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError

_MAX_BYTES = 4096


def first_line(path: Path) -> str:
    """The first line of ``path`` without its end, at most 4096 bytes of it; raises SpecError."""
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_BYTES).split(b"\n", 1)[0].rstrip(b"\r").decode()
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError:
        raise SpecError("the password is not UTF-8 text", where=str(path)) from None
