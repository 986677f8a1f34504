"""An XVA as XAPI's import takes it: a tar reader with its rules, and the VM in its records.

Rules: ``ova.xml`` first; then the disks in the order of their references as text, each piece
directly followed by its checksum, numbers going up, a gap standing for as many times the length of
the file's first piece (``ocaml/xapi/stream_vdi.ml``, ``import.ml``).
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import xmlrpc.client
from dataclasses import dataclass
from typing import IO, Any

NULL = "OpaqueRef:NULL"
# Fields that XAPI's data model gives no default (ocaml/idl/datamodel*.ml).
REQUIRED = {
    "VM": "uuid allowed_operations current_operations power_state name_label name_description"
    " user_version is_a_template resident_on affinity memory_static_max memory_dynamic_max"
    " memory_dynamic_min memory_static_min VCPUs_params VCPUs_max VCPUs_at_startup"
    " actions_after_shutdown actions_after_reboot actions_after_crash PV_bootloader PV_kernel"
    " PV_ramdisk PV_args PV_bootloader_args PV_legacy_args HVM_boot_policy HVM_boot_params platform"
    " PCI_bus other_config domid domarch is_control_domain metrics recommendations VBDs VIFs",
    "VBD": "VM VDI userdevice bootable mode type storage_lock empty other_config",
    "VDI": "SR virtual_size physical_utilisation type sharable read_only other_config managed"
    " missing parent",
    "VIF": "device network VM MAC MTU reserved other_config",
    "SR": "virtual_allocation physical_utilisation physical_size type content_type shared"
    " other_config default_vdi_visibility",
    "network": "other_config",
}


@dataclass(frozen=True)
class Xva:
    """The objects by reference, and each disk's size, pieces and content (None if not asked)."""

    objects: dict[str, tuple[str, dict[str, Any]]]
    disks: dict[str, tuple[int, list[int], bytes | None]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of a class, in the order of their references."""
        return [record for _, (k, record) in sorted(self.objects.items()) if k == kind]


def objects(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The records in an ``ova.xml``, checked for what import insists on."""
    ((header,), _) = xmlrpc.client.loads(f"<params><param>{text}</param></params>")
    assert isinstance(header, dict)
    version = header["version"]
    assert version["export_vsn"] == "2"
    assert (int(version["xapi_major"]), int(version["xapi_minor"])) <= (1, 3)
    assert set(version) == {
        *("hostname", "date", "product_version", "product_brand", "build_number"),
        *("xapi_major", "xapi_minor", "export_vsn"),
    }
    found = {o["id"]: (o["class"], o["snapshot"]) for o in header["objects"]}
    assert len(found) == len(header["objects"])
    for reference, (kind, record) in found.items():
        assert re.fullmatch(r"Ref:[0-9]+", reference)
        assert not set(REQUIRED[kind].split()) - set(record), (kind, reference)
        for value in record.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str) and item.startswith("Ref:"):
                    assert item in found, (reference, item)
    return found


def read(source: IO[bytes], *, content: bool = True) -> Xva:
    """The XVA in ``source``; AssertionError where XAPI would refuse it or read something else."""
    with tarfile.open(fileobj=source, mode="r|") as archive:
        members = iter(archive)
        first = next(members)
        assert first.name == "ova.xml"
        known = objects(_body(archive, first).decode())
        wanted = sorted(
            record["VDI"]
            for kind, record in known.values()
            if kind == "VBD" and record["type"] != "CD"
        )
        step, disks = 0, {}
        for reference in wanted:
            size = int(known[reference][1]["virtual_size"])
            image = bytearray(size) if content else None
            at, last, numbers = 0, -1, []
            while at < size:
                piece = next(members)
                prefix, _, number = piece.name.rpartition("/")
                assert prefix == reference and re.fullmatch(r"[0-9]{8}", number), piece.name
                data = _body(archive, piece)
                step = step or len(data)
                assert int(number) > last
                at += step * (int(number) - last - 1)
                if image is not None:
                    image[at : at + len(data)] = data
                at += len(data)
                check = next(members)
                assert check.name == piece.name + ".checksum"
                digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
                assert _body(archive, check).decode() == digest
                last = int(number)
                numbers.append(last)
            assert at == size
            disks[reference] = (size, numbers, None if image is None else bytes(image))
        assert next(members, None) is None
    return Xva(known, disks)


def _body(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    assert member.isreg()
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def machine(known: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The VM in the records, in the shape of ``expected_machine``."""
    (vm,) = [record for kind, record in known.values() if kind == "VM"]

    def follow(reference: str) -> dict[str, Any]:
        return known[reference][1]

    hvm = vm["HVM_boot_policy"] == "BIOS order"
    return {
        "name": vm["name_label"],
        "uuid": vm["uuid"],
        "mode": vm["domain_type"],
        "memory": [
            int(vm[f"memory_{key}"])
            for key in ("static_min", "dynamic_min", "dynamic_max", "static_max")
        ],
        "vcpus": (int(vm["VCPUs_at_startup"]), int(vm["VCPUs_max"])),
        "cpu": vm["VCPUs_params"],
        "bootloader": (vm["PV_bootloader"], vm["PV_bootloader_args"]),
        "kernel": (vm["PV_kernel"], vm["PV_ramdisk"], vm["PV_args"]),
        "firmware": (vm["HVM_boot_params"]["firmware"], vm["HVM_boot_params"]["order"])
        if hvm
        else None,
        "serial": vm["platform"].get("hvm_serial"),
        "actions": [vm[f"actions_after_{key}"] for key in ("shutdown", "reboot", "crash")],
        "disks": [
            (
                int(vbd["userdevice"]),
                vbd["bootable"],
                vbd["mode"] == "RO",
                vbd["empty"],
                vbd["VDI"] == NULL,
            )
            for vbd in map(follow, vm["VBDs"])
        ],
        "nics": [
            (
                vif["MAC"],
                follow(vif["network"])["bridge"],
                sorted(vif["ipv4_allowed"] + vif["ipv6_allowed"]),
                vif["qos_algorithm_params"],
            )
            for vif in map(follow, vm["VIFs"])
        ],
    }
