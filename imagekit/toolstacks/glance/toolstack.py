"""The toolstack ``glance``, declared."""

from __future__ import annotations

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.toolstacks.declaration import Delivered, Toolstack, Upload
from imagekit.toolstacks.glance.emitter import GlanceEmitter, Options
from imagekit.toolstacks.glance.upload import upload


def _upload(domain: Domain, facts: BuildFacts, options: Options, asked: Upload) -> Delivered:
    ids = upload(domain, facts, options, cloud=asked.cloud)
    return Delivered(tuple(f"{role} {ident}" for role, ident in ids.items()))


GLANCE = Toolstack(
    name="glance",
    gives="a script that uploads images to OpenStack, with what nova's Xen drivers read",
    suffix="glance.sh",
    page="docs/toolstacks/glance.md",
    options=Options,
    emitter=GlanceEmitter,
    other_macs=lambda _options: "nova gives the guest other MAC addresses than the spec's",
    upload=_upload,
)
