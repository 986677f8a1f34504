"""A plan: stages in order, the key of each, and which the store already holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imagekit import __version__
from imagekit.errors import ImagekitError
from imagekit.pipeline.source import code_digest
from imagekit.pipeline.stage import Stage, Target, digest_json


@dataclass(frozen=True)
class Planned:
    """A stage with its key; ``parts`` holds the digests of what went into the key, for why()."""

    stage: Stage
    key: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """Stages in the order in which they run, what is delivered, and what tools see meanwhile.

    ``environment`` has variables for the programs that stages run; None hides one from them.
    """

    stages: tuple[Planned, ...]
    targets: tuple[Target, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)

    def maker(self, artefact: str) -> Planned:
        """The stage that makes ``artefact``."""
        for planned in self.stages:
            if artefact in planned.stage.makes:
                return planned
        raise ImagekitError(f"no stage makes {artefact}")


def make_plan(
    stages: Iterable[Stage],
    targets: Sequence[Target],
    environment: Mapping[str, str | None] | None = None,
) -> Plan:
    """Check ``stages``, order them by what they need and key them.

    A key digests the stage's own key, its code, imagekit's version and the keys of the stages that
    make what it needs. ``environment`` is what the plan's tools see.

    Raises what checks raise, ImagekitError for artefacts that nobody makes, that two make, and
    for cycles.
    """
    pending = list(stages)
    for stage in pending:
        stage.check()
    made: dict[str, str] = {}
    makers: dict[str, str] = {}
    for stage in pending:
        for artefact in stage.makes:
            if artefact in makers:
                raise ImagekitError(f"{stage.name} and {makers[artefact]} both make {artefact}")
            makers[artefact] = stage.name
    ordered: list[Planned] = []
    while pending:
        ready = next((s for s in pending if all(n in made for n in s.needs)), None)
        if ready is None:
            missing = sorted({n for s in pending for n in s.needs if n not in makers})
            raise ImagekitError(f"the plan cannot be ordered; nobody makes {missing or 'a cycle'}")
        pending.remove(ready)
        planned = _keyed(ready, made)
        ordered.append(planned)
        made.update(dict.fromkeys(ready.makes, planned.key))
    for target in targets:
        if target.artefact not in made:
            raise ImagekitError(f"no stage makes {target.artefact}")
    return Plan(tuple(ordered), tuple(targets), dict(environment or {}))


def _keyed(stage: Stage, made: Mapping[str, str]) -> Planned:
    own: Mapping[str, Any] = stage.key()
    parts = {f"{name}": digest_json(value)[:16] for name, value in own.items()}
    parts["code"] = code_digest(type(stage), stage.loads)[:16]
    parts["imagekit"] = __version__
    parts.update({f"input {name}": made[name][:16] for name in stage.needs})
    return Planned(stage, digest_json({"stage": stage.name, **parts}), parts)


def why(planned: Planned, last: Mapping[str, str] | None) -> str:
    """Why a stage is not cached: what differs from the parts it ran with last time."""
    if last is None:
        return "never run"
    changed = [n for n in planned.parts if planned.parts[n] != last.get(n)]
    changed += [n for n in last if n not in planned.parts]
    return f"changed: {', '.join(changed)}" if changed else "no longer in the store"
