"""Import a domain into XenServer or XCP-ng, piece by piece or as an XVA.

Source: the XenAPI reference (VM.create, VDI.create, VBD.create, VIF.create; integers travel as
strings) and xapi-project/xen-api, ``ocaml/xapi/importexport.ml``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.domain.text import refuse
from imagekit.errors import ImagekitError
from imagekit.toolstacks.xapi.records import Machine, Value, Vif, machine
from imagekit.toolstacks.xapi.script import Source, disk_source
from imagekit.toolstacks.xapi.session import Api, Pool, session
from imagekit.toolstacks.xapi.upload import upload

NULL = "OpaqueRef:NULL"
_REFERENCE = re.compile(r"OpaqueRef:[0-9A-Za-z-]{1,64}")
_QOS: Mapping[str, Any] = {"qos_algorithm_type": "", "qos_algorithm_params": {}}


def import_into(
    pool: Pool,
    domain: Domain,
    facts: BuildFacts,
    *,
    sr: str | None = None,
    networks: Mapping[str, str] | None = None,
) -> str:
    """Make the VM with its disks and NICs in ``pool``; its UUID.

    ``sr`` is the UUID or name of the storage repository (None: the pool's default), ``networks``
    maps a bridge of the domain to a network's UUID or name (others are found by their bridge). When
    a step fails, everything made so far is removed. Raises SpecError or CapabilityError for what
    XAPI cannot express, HostError without the XenAPI package, ToolError when XAPI refuses,
    DownloadError when it cannot be reached.
    """
    parts = machine(domain)
    sources = [
        None if vbd.empty else disk_source(facts, domain.disks[vbd.position], vbd.position)
        for vbd in parts.vbds
    ]
    with session(pool) as api, contextlib.ExitStack() as undo:
        storage = _storage(api, sr)
        known = _networks(api, parts, networks or {})
        vm = api.text("VM.create", vm_record(parts))
        undo.push(_removal(api, "VM.destroy", vm))
        for vbd, source in zip(parts.vbds, sources, strict=True):
            vdi = NULL
            if source is not None:
                name = f"{domain.name}-{domain.disks[vbd.position].vdev}"
                vdi = api.text("VDI.create", _vdi_record(name, storage, source))
                undo.push(_removal(api, "VDI.destroy", vdi))
                _fill(api, vdi, source)
            record = {
                "VM": vm,
                "VDI": vdi,
                "userdevice": vbd.userdevice,
                "bootable": vbd.bootable,
                "mode": "RO" if vbd.readonly else "RW",
                "type": "CD" if vbd.empty else "Disk",
                "unpluggable": True,
                "empty": vbd.empty,
                "other_config": {},
                **_QOS,
            }
            api.text("VBD.create", record)
        for vif in parts.vifs:
            api.text("VIF.create", _vif_record(vif, vm, known[vif.bridge]))
        return api.text("VM.get_uuid", vm)


def import_xva(pool: Pool, xva: Path, *, sr: str | None = None) -> list[str]:
    """Import the XVA file ``xva``; the UUIDs of the VMs in it. Raises as :func:`import_into`."""
    with session(pool) as api:
        storage = _storage(api, sr)
        with _task(api, f"import {xva.name}") as task:
            identity = api.text("SR.get_uuid", storage)
            query = {"session_id": api.handle, "task_id": task, "sr_uuid": identity}
            upload(pool, "/import", query, xva)
            result = api.finish(task, f"the import of {xva.name}")
        return [api.text("VM.get_uuid", vm) for vm in _REFERENCE.findall(result)]


def vm_record(parts: Machine) -> dict[str, Any]:
    """The record for ``VM.create``."""
    record = {member.key: _plain(member.value) for member in parts.vm}
    return record | {
        "name_description": "",
        "user_version": "1",
        "is_a_template": False,
        "affinity": NULL,
        "PCI_bus": "",
        "other_config": {},
        "recommendations": "",
        "HVM_shadow_multiplier": 1.0,
    }


def _plain(value: Value) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _vdi_record(name: str, storage: str, source: Source) -> dict[str, Any]:
    return {
        "name_label": name,
        "name_description": "",
        "SR": storage,
        "virtual_size": str(source.virtual_size),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }


def _vif_record(vif: Vif, vm: str, network: str) -> dict[str, Any]:
    record: dict[str, Any] = {
        "device": vif.device,
        "network": network,
        "VM": vm,
        "MAC": vif.mac,
        "MTU": "1500",
        "other_config": {},
        **_QOS,
    }
    if vif.qos:
        record |= {"qos_algorithm_type": "ratelimit", "qos_algorithm_params": vif.qos}
    for key, addresses in (("ipv4_allowed", vif.ipv4), ("ipv6_allowed", vif.ipv6)):
        if addresses:
            record[key] = list(addresses)
    return record


def _storage(api: Api, wanted: str | None) -> str:
    if wanted is None:
        for record in api.records("pool.get_all_records").values():
            found = record.get("default_SR")
            if isinstance(found, str) and found != NULL:
                return found
        refuse("the pool has no default storage repository", "sr", "name one: --sr UUID|NAME")
    return _one(api, "SR", wanted, ("uuid", "name_label"), "sr")


def _networks(api: Api, parts: Machine, chosen: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for bridge in dict.fromkeys(vif.bridge for vif in parts.vifs):
        if bridge in chosen:
            keys: tuple[str, ...] = ("uuid", "name_label")
            found[bridge] = _one(api, "network", chosen[bridge], keys, "networks")
        else:
            found[bridge] = _one(api, "network", bridge, ("bridge",), "networks")
    return found


def _one(api: Api, kind: str, wanted: str, keys: tuple[str, ...], where: str) -> str:
    records = api.records(f"{kind}.get_all_records")
    for key in keys:
        matching = [ref for ref, record in records.items() if record.get(key) == wanted]
        if len(matching) == 1:
            return matching[0]
        if matching:
            refuse(f"there are {len(matching)} of the {key} {wanted!r}", where, "name its UUID")
    labels = sorted({str(record.get(keys[-1], "")) for record in records.values()})[:10]
    refuse(f"there is no {kind} {wanted!r}", where, f"there is {', '.join(labels) or 'none'}"[:300])


def _fill(api: Api, vdi: str, source: Source) -> None:
    """Upload a disk's content into its VDI, and wait until XAPI has it."""
    path = Path(source.path)
    with _task(api, f"import {path.name}") as task:
        query = {
            "session_id": api.handle,
            "task_id": task,
            "vdi": vdi,
            "format": source.format,
        }
        upload(api.pool, "/import_raw_vdi", query, path)
        api.finish(task, f"the import of {path.name}")


@contextlib.contextmanager
def _task(api: Api, label: str) -> Iterator[str]:
    task = api.text("task.create", label, "by imagekit")
    try:
        yield task
    finally:
        with contextlib.suppress(ImagekitError):
            api.call("task.destroy", task)


def _removal(api: Api, method: str, reference: str) -> Callable[..., bool]:
    """What undoes a step when a later one fails; should that fail too, the error says so."""

    def undo(_kind: type[BaseException] | None, error: BaseException | None, *_: object) -> bool:
        if error is None:
            return False
        try:
            api.call(method, reference)
        except ImagekitError:
            note = f"{reference} could not be removed and is still in the pool"
            if isinstance(error, ImagekitError):
                error.hint = f"{error.hint}; {note}" if error.hint else note
            else:
                error.add_note(note)
        return False

    return undo
