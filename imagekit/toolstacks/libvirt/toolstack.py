"""The toolstack ``libvirt``, declared."""

from __future__ import annotations

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.toolstacks.declaration import Define, Delivered, NoOptions, Toolstack
from imagekit.toolstacks.libvirt.define import define
from imagekit.toolstacks.libvirt.emitter import EMITTER


def _define(domain: Domain, facts: BuildFacts, _options: NoOptions, asked: Define) -> Delivered:
    define(EMITTER.text(domain, facts), domain, asked.uri, force=asked.force)
    return Delivered(said=f"{domain.name} is defined at {asked.uri}")


LIBVIRT = Toolstack(
    name="libvirt",
    gives="domain XML for libvirt's libxl driver",
    suffix="xml",
    page="docs/toolstacks/libvirt.md",
    options=NoOptions,
    emitter=lambda _options: EMITTER,
    netboots="profile",
    define=_define,
)
