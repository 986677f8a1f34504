"""The toolstack ``xapi`` and its second output, ``xva``, declared."""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.toolstacks.declaration import NoOptions, Toolstack
from imagekit.toolstacks.tarball import Handler
from imagekit.toolstacks.xapi import import_option, xva
from imagekit.toolstacks.xapi.script import XapiEmitter


@dataclass(frozen=True)
class Options:
    """``handlers`` are nova's image handlers to make a tarball for, with commas between them."""

    handlers: tuple[Handler, ...] = ()


XAPI = Toolstack(
    name="xapi",
    gives="a script of xe commands for XenServer and XCP-ng",
    suffix="xe.sh",
    page="docs/toolstacks/xapi.md",
    options=Options,
    emitter=lambda options: XapiEmitter(options.handlers),
    import_=import_option.import_domain,
)

XVA = Toolstack(
    name="xva",
    gives="the whole VM in one file for `xe vm-import`",
    suffix="xva",
    page="docs/toolstacks/xva.md",
    options=NoOptions,
    emitter=lambda _options: xva.EMITTER,
    built=False,
    other_macs=lambda _options: (
        "XAPI gives an imported VM other MAC addresses, unless it restores it (preserve=true)"
    ),
    import_=import_option.import_whole,
)
