"""The objects of an XVA: the VM's record, and all that hangs on it, in full.

XAPI's import wants every field its data model gives no default
(xapi-project/xen-api, ``ocaml/idl/datamodel*.ml``, ``ocaml/xapi/import.ml``).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Disk, Domain
from imagekit.errors import CapabilityError
from imagekit.toolstacks.output import Line
from imagekit.toolstacks.xapi.records import Machine, Value, Vbd, Vif, machine
from imagekit.toolstacks.xapi.xva_xml import member

NULL = "OpaqueRef:NULL"
VM = "Ref:0"
_SR = "Ref:1"
_NO_QOS: Mapping[str, Value] = {
    "qos_algorithm_type": "",
    "qos_algorithm_params": {},
    "qos_supported_algorithms": (),
}
_DETACHED: Mapping[str, Value] = {
    "allowed_operations": (),
    "current_operations": {},
    "currently_attached": False,
    "status_code": 0,
    "status_detail": "",
    "runtime_properties": {},
    "metrics": NULL,
    "other_config": {},
}
_VERSION: Mapping[str, Value] = {
    "hostname": "imagekit",
    "date": "1970-01-01",
    "product_version": "7.0.0",
    "product_brand": "imagekit",
    "build_number": "0",
    # Import refuses what is newer than itself; 1.3 is older than any XAPI in use.
    "xapi_major": 1,
    "xapi_minor": 3,
    "export_vsn": 2,
}


@dataclass(frozen=True)
class Object:
    """A record of the XVA under its class and reference; ``fields`` name what each key words."""

    kind: str
    reference: str
    record: Mapping[str, Value]
    fields: Mapping[str, str]


@dataclass(frozen=True)
class VdiSource:
    """A disk with content: its reference and its size in bytes."""

    reference: str
    size: int


def raw_path(facts: BuildFacts, disk: Disk, position: int) -> str:
    """Where the raw image of a disk lies; raises CapabilityError when none was made."""
    if disk.format == "raw" and disk.target is not None:
        return disk.target
    for known in facts.disks:
        if known.paths.get(disk.format) == disk.target and "raw" in known.paths:
            return known.paths["raw"]
    raise CapabilityError(
        f"disk {position} is {disk.format}, and an XVA is made from a raw image",
        where="format",
        hint="imagekit convert makes one; or take the toolstack xapi, which uploads VHD",
    )


def ova_objects(domain: Domain, disks: tuple[VdiSource, ...]) -> list[Object]:
    """The objects of ``ova.xml``, the VM first."""
    parts = machine(domain)
    made = iter(disks)
    vdis = [None if vbd.empty else next(made) for vbd in parts.vbds]
    bridges = list(dict.fromkeys(vif.bridge for vif in parts.vifs))
    vbds = [f"Ref:{3000 + i}" for i in range(len(parts.vbds))]
    vifs = [f"Ref:{4000 + i}" for i in range(len(parts.vifs))]
    networks = {bridge: f"Ref:{5000 + i}" for i, bridge in enumerate(bridges)}
    objects = [_vm(domain, parts, vbds, vifs)]
    for vbd, reference, vdi in zip(parts.vbds, vbds, vdis, strict=True):
        objects.append(_vbd(domain, vbd, reference, vdi))
        if vdi is not None:
            objects.append(_vdi(domain, vbd, vdi, reference))
    if disks:
        objects.append(_sr(domain, disks))
    for i, (vif, reference) in enumerate(zip(parts.vifs, vifs, strict=True)):
        objects.append(_vif(domain, vif, reference, networks[vif.bridge], i))
    for bridge, reference in networks.items():
        members = tuple(r for v, r in zip(parts.vifs, vifs, strict=True) if v.bridge == bridge)
        objects.append(_network(domain, bridge, reference, members))
    return objects


def ova_lines(objects: list[Object]) -> list[Line]:
    """``ova.xml``: a record's field per line, white space between which means nothing."""
    version = "".join(member(key, inner) for key, inner in _VERSION.items())
    lines = [
        Line("<value><struct>"),
        Line(f"<member><name>version</name><value><struct>{version}</struct></value></member>"),
        Line("<member><name>objects</name><value><array><data>"),
    ]
    for item in objects:
        lines.append(Line("<value><struct>"))
        lines.append(Line(member("class", item.kind) + member("id", item.reference)))
        lines.append(Line("<member><name>snapshot</name><value><struct>"))
        for key, inner in item.record.items():
            field = item.fields.get(key, "")
            lines.append(Line(f"  {member(key, inner, field)}", field))
        lines.append(Line("</struct></value></member></struct></value>"))
    lines += [Line("</data></array></value></member>"), Line("</struct></value>")]
    return lines


def _uuid(domain: Domain, role: str) -> str:
    """A UUID that stands for a part of the domain, the same in every run."""
    return str(uuid.uuid5(uuid.UUID(domain.uuid), role))


def _vm(domain: Domain, parts: Machine, vbds: list[str], vifs: list[str]) -> Object:
    record: dict[str, Value] = {"uuid": domain.uuid}
    record |= {m.key: m.value for m in parts.vm}
    record |= {
        "name_description": "",
        "user_version": 1,
        "is_a_template": False,
        "is_control_domain": False,
        "power_state": "Halted",
        "allowed_operations": (),
        "current_operations": {},
        "blocked_operations": {},
        "resident_on": NULL,
        "affinity": NULL,
        "memory_overhead": 0,
        "memory_target": 0,
        "HVM_shadow_multiplier": 1.0,
        "PCI_bus": "",
        "other_config": {},
        "recommendations": "",
        "domid": -1,
        "domarch": "",
        "last_boot_CPU_flags": {},
        "last_booted_record": "",
        "metrics": NULL,
        "guest_metrics": NULL,
        "suspend_VDI": NULL,
        "snapshots": (),
        "snapshot_of": NULL,
        "parent": NULL,
        "children": (),
        "tags": (),
        "consoles": (),
        "crash_dumps": (),
        "VTPMs": (),
        "VBDs": tuple(vbds),
        "VIFs": tuple(vifs),
    }
    fields = {m.key: m.field for m in parts.vm}
    return Object("VM", VM, record, fields | {"uuid": "uuid", "VBDs": "disks", "VIFs": "nics"})


def _vbd(domain: Domain, vbd: Vbd, reference: str, vdi: VdiSource | None) -> Object:
    field = f"disks[{vbd.position}]"
    record: dict[str, Value] = {
        "uuid": _uuid(domain, f"vbd{vbd.position}"),
        "VM": VM,
        "VDI": NULL if vdi is None else vdi.reference,
        "device": "",
        "userdevice": vbd.userdevice,
        "bootable": vbd.bootable,
        "mode": "RO" if vbd.readonly else "RW",
        "type": "CD" if vbd.empty else "Disk",
        "empty": vbd.empty,
        "unpluggable": True,
        "storage_lock": False,
        **_DETACHED,
        **_NO_QOS,
    }
    fields = {"VDI": f"{field}.target", "userdevice": f"{field}.vdev", "mode": f"{field}.readonly"}
    return Object("VBD", reference, record, fields)


def _vdi(domain: Domain, vbd: Vbd, vdi: VdiSource, reference: str) -> Object:
    record: dict[str, Value] = {
        "uuid": _uuid(domain, f"vdi{vbd.position}"),
        "name_label": f"{domain.name}-{domain.disks[vbd.position].vdev}",
        "name_description": "",
        "SR": _SR,
        "VBDs": (reference,),
        "virtual_size": vdi.size,
        "physical_utilisation": 0,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "storage_lock": False,
        "managed": True,
        "missing": False,
        "location": "",
        "allowed_operations": (),
        "current_operations": {},
        "crash_dumps": (),
        "parent": NULL,
        "is_a_snapshot": False,
        "snapshot_of": NULL,
        "snapshots": (),
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {},
        "tags": (),
    }
    field = f"disks[{vbd.position}]"
    fields = {"name_label": f"{field}.vdev", "virtual_size": f"{field}.target"}
    return Object("VDI", vdi.reference, record, fields)


def _sr(domain: Domain, disks: tuple[VdiSource, ...]) -> Object:
    record: dict[str, Value] = {
        "uuid": _uuid(domain, "sr"),
        "name_label": "imagekit",
        "name_description": "",
        "type": "ext",
        # "iso" here would make XAPI look for the disks in an ISO repository.
        "content_type": "user",
        "shared": False,
        "VDIs": tuple(disk.reference for disk in disks),
        "PBDs": (),
        "virtual_allocation": 0,
        "physical_utilisation": 0,
        "physical_size": 0,
        "allowed_operations": (),
        "current_operations": {},
        "other_config": {},
        "sm_config": {},
        "tags": (),
        "default_vdi_visibility": True,
    }
    return Object("SR", _SR, record, {})


def _vif(domain: Domain, vif: Vif, reference: str, network: str, position: int) -> Object:
    record: dict[str, Value] = {
        "uuid": _uuid(domain, f"vif{position}"),
        "VM": VM,
        "network": network,
        "device": vif.device,
        "MAC": vif.mac,
        "MAC_autogenerated": False,
        "MTU": 1500,
        "reserved": False,
        "locking_mode": "network_default",
        "ipv4_allowed": vif.ipv4,
        "ipv6_allowed": vif.ipv6,
        **_DETACHED,
        **_NO_QOS,
    }
    if vif.qos:
        record |= {"qos_algorithm_type": "ratelimit", "qos_algorithm_params": vif.qos}
    field = f"nics[{position}]"
    fields = {"MAC": f"{field}.mac", "network": f"{field}.bridge", "ipv4_allowed": f"{field}.ips"}
    fields |= {"ipv6_allowed": f"{field}.ips", "qos_algorithm_params": f"{field}.rate"}
    return Object("VIF", reference, record, fields)


def _network(domain: Domain, bridge: str, reference: str, vifs: tuple[str, ...]) -> Object:
    record: dict[str, Value] = {
        "uuid": _uuid(domain, f"network {bridge}"),
        "name_label": bridge,
        "name_description": "",
        "bridge": bridge,
        "VIFs": vifs,
        "PIFs": (),
        "MTU": 1500,
        "allowed_operations": (),
        "current_operations": {},
        "other_config": {},
        "blobs": {},
        "tags": (),
    }
    return Object("network", reference, record, {"bridge": "nics"})
