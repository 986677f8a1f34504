"""The toolstack ``opennebula``, declared."""

from __future__ import annotations

from imagekit.toolstacks.declaration import Toolstack
from imagekit.toolstacks.opennebula.emitter import OpenNebulaEmitter, Options


def _other_macs(options: Options) -> str:
    if options.network is None or options.mac:
        return ""
    return f"the virtual network {options.network} gives the guest other MAC addresses"


OPENNEBULA = Toolstack(
    name="opennebula",
    gives="templates of a VM and its images for OpenNebula 4.4 to 5.4",
    suffix="one.vm",
    page="docs/toolstacks/opennebula.md",
    options=Options,
    emitter=OpenNebulaEmitter,
    other_macs=_other_macs,
)
