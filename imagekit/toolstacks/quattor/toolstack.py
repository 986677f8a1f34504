"""The toolstack ``quattor``, declared."""

from __future__ import annotations

from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.quattor.emitter import Options, QuattorEmitter

QUATTOR = Toolstack(
    name="quattor",
    gives="Pan templates for the component ncm-xen, and the file it makes of them",
    suffix="pan",
    page="docs/toolstacks/quattor.md",
    options=Options,
    emitter=QuattorEmitter,
    netboots="convention",
)
