"""Every toolstack imagekit can word a domain for: one line per emitter module."""

from __future__ import annotations

from imagekit.errors import SpecError
from imagekit.toolstacks.glance import emitter as glance
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.opennebula import emitter as opennebula
from imagekit.toolstacks.output import Emitter
from imagekit.toolstacks.quattor import emitter as quattor
from imagekit.toolstacks.xapi import script as xapi
from imagekit.toolstacks.xapi import xva
from imagekit.toolstacks.xl import emitter as xl
from imagekit.toolstacks.xm import emitter as xm

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
