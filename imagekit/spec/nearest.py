"""The word that a mistyped one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LENGTH = 64
"""Longer words are no slip of the fingers, and comparing takes quadratic time."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was most likely meant to be; None if none is like it.

    Upper and lower case, and hyphens and underscores, are the same here.
    """
    if len(word) > MAX_LENGTH:
        return None
    plain = {_plain(name): name for name in reversed(list(known))}
    found = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?`` to end a message with, or nothing."""
    found = nearest(word, known)
    return f"; did you mean {found}?" if found else ""


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_")
