"""The toolstack ``xapi`` and its second output, ``xva``, declared."""

from __future__ import annotations

from dataclasses import dataclass

from imagekit.toolstacks.declaration import NoOptions, Toolstack
from imagekit.toolstacks.tarball import Handler
from imagekit.toolstacks.xapi import delivery, xva
from imagekit.toolstacks.xapi.script import XapiEmitter


@dataclass(frozen=True)
class Options:
    """``handlers`` are nova's image handlers to make a tarball for, with commas between them."""

    handlers: tuple[Handler, ...] = ()


XAPI = Toolstack(
    name="xapi",
    gives="a script of xe commands for XenServer and XCP-ng",
    suffix="xe.sh",
    page="docs/toolstacks.md#xapi-xenserver-xcp-ng",
    options=Options,
    emitter=lambda options: XapiEmitter(options.handlers),
    import_=lambda domain, facts, _options, asked: delivery.import_domain(domain, facts, asked),
)

XVA = Toolstack(
    name="xva",
    gives="the whole VM in one file for `xe vm-import`",
    suffix="xva",
    page="docs/toolstacks.md#xapi-xenserver-xcp-ng",
    options=NoOptions,
    emitter=lambda _options: xva.EMITTER,
    built=False,
    other_macs="XAPI gives an imported VM other MAC addresses, unless it restores it "
    "(preserve=true)",
    import_=lambda domain, facts, _options, asked: delivery.import_whole(domain, facts, asked),
)
