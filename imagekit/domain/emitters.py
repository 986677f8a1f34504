"""Every toolstack imagekit can word a domain for: one line per emitter module."""

from __future__ import annotations

from imagekit.domain import glance, libvirt, opennebula, quattor, xapi, xl, xm, xva
from imagekit.domain.output import Emitter
from imagekit.errors import SpecError

EMITTERS: dict[str, Emitter] = {
    emitter.name: emitter
    for emitter in (
        xl.EMITTER,
        xm.EMITTER,
        libvirt.EMITTER,
        opennebula.EMITTER,
        glance.EMITTER,
        xapi.EMITTER,
        xva.EMITTER,
        quattor.EMITTER,
    )
}  # fmt: skip


def emitter_for(toolstack: str) -> Emitter:
    """The emitter of ``toolstack``; raises SpecError naming those there are."""
    if toolstack not in EMITTERS:
        raise SpecError(
            f"there is no toolstack {toolstack!r}",
            where="toolstack",
            hint=f"one of {', '.join(EMITTERS)}",
        )
    return EMITTERS[toolstack]
