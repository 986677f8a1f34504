"""The toolstack ``xl``, declared."""

from __future__ import annotations

from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.xl.emitter import Options, XlEmitter

XL = Toolstack(
    name="xl",
    gives="xl.cfg for xl and libxl of Xen 4.17 to 4.20",
    suffix="xl.cfg",
    page="docs/toolstacks/xl.md",
    options=Options,
    emitter=XlEmitter,
    netboots="arguments",
)
