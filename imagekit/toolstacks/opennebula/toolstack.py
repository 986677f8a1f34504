"""The toolstack ``opennebula``, declared."""

from __future__ import annotations

from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.opennebula.emitter import OpenNebulaEmitter, Options

OPENNEBULA = Toolstack(
    name="opennebula",
    gives="templates of a VM and its images for OpenNebula 4.4 to 5.4",
    suffix="one.vm",
    page="docs/toolstacks.md#opennebula",
    options=Options,
    emitter=OpenNebulaEmitter,
)
