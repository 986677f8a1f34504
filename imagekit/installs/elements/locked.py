"""Elements in a lock: which were used, and that a locked build uses the same."""

from __future__ import annotations

import os
from collections.abc import Sequence

from imagekit.errors import SpecError
from imagekit.installs.elements.planning import ElementPlan
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock, LockedElement

HINT = "build without --locked to make a new lock, and compare: imagekit lock diff"


def locked_elements(file: SpecFile, plan: ElementPlan | None) -> list[LockedElement]:
    """Every element of ``plan`` with the digest of its content, in the order of their names.

    Paths are relative to the spec for the user's elements; others are told by whose they are.
    """
    if plan is None:
        return []
    base = file.path.absolute().parent
    found = []
    for element in plan.elements:
        own = element.origin == "spec"
        path = os.path.relpath(element.path, base.resolve()) if own else ""
        path = path or f"{element.origin}/{element.name}"
        found.append(LockedElement(name=element.name, path=path, sha256=element.digest()))
    return found


def require_locked(
    file: SpecFile, lock: Lock, plan: ElementPlan | None, used: Sequence[LockedElement]
) -> None:
    """Raise SpecError, naming the first element, unless ``lock`` names those ``used``."""
    where = file.where("install", "elements")
    if plan is not None and plan.provided:
        raise SpecError(
            "an element makes the root file system, and its packages are in no lock", where=where
        )
    now = {element.name: element for element in used}
    then = {element.name: element for element in lock.elements}
    for name in sorted({*now, *then}):
        if name not in then:
            what = f"the element {name} is needed, and is not in the lock"
        elif name not in now:
            what = f"the element {name} is in the lock, and is not needed"
        elif now[name].sha256.lower() != then[name].sha256.lower():
            what = f"the element {name} ({now[name].path}) has changed since the lock was made"
        else:
            continue
        raise SpecError(what, where=where, hint=HINT)
