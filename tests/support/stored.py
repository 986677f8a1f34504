"""Results in the store of a test run, which may be kept as differences."""

from __future__ import annotations

from pathlib import Path

from imagekit.disk.extents import sha256_sparse
from imagekit.pipeline.store import Store

_USED: list[Store] = []
"""What a store gives out stays whole, and is not pruned, as long as the store lives."""


def stored(cache: Path, key: str, artefact: str) -> Path:
    """The file ``artefact`` of the result ``key``, as the build left it; good for this process."""
    store = Store(cache / "store", sha256_sparse)
    _USED.append(store)
    entry = store.get(key, [artefact])
    assert entry is not None
    return entry.files[artefact]
