"""The toolstack ``xm``, declared."""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.xm.emitter import XmEmitter


@dataclass(frozen=True)
class Options:
    """``sxp`` picks the S-expression, for ``xm new -F``, in place of the config file."""

    sxp: bool = False


XM = Toolstack(
    name="xm",
    gives="a config for xm and xend of Xen up to 4.4, or its S-expression",
    suffix="xm.cfg",
    page="docs/toolstacks/xm.md",
    options=Options,
    emitter=lambda options: XmEmitter(sxp=options.sxp),
    netboots="arguments",
)
