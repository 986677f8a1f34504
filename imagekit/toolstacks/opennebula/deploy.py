"""A preview of the file that OpenNebula's driver hands to xl or xm, in the driver's order.

The driver escapes nothing; the values were checked when the template was made. Source:
``XenDriver::deployment_description`` in ``src/vmm/XenDriver.cc``, releases 4.4 and 4.14.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from imagekit.toolstacks.opennebula.quote import Attribute

CREDIT = 256
"""Xen's weight of one OpenNebula CPU (CREDIT in vmm_exec_xen4.conf)."""

_LETTERS = {"hd": "c", "fd": "a", "cdrom": "d", "network": "n"}


def deployment(
    attributes: Sequence[Attribute],
    *,
    cdroms: frozenset[str] = frozenset(),
    release: Literal["4.4", "4.14"] = "4.4",
    vm_id: int = 0,
    datastore: str = "/var/lib/one/datastores/0",
) -> str:
    """The deployment file of the VM ``vm_id``, whose disks lie in ``datastore``/``vm_id``.

    ``cdroms`` are the devices whose image has the type CDROM.
    """
    single = {a.name: a.value for a in attributes if isinstance(a.value, str)}
    vectors = [(a.name, dict(a.value)) for a in attributes if not isinstance(a.value, str)]
    directory = f"{datastore}/{vm_id}"
    system = next(values for name, values in vectors if name == "OS")
    lines = [
        f"name = 'one-{vm_id}'",
        f"#O CPU_CREDITS = {math.ceil(float(single['CPU']) * CREDIT)}",
        f"memory  = '{single['MEMORY']}'",
        f"vcpus  = '{single['VCPU']}'",
        *_boot(system, directory),
        "disk = [",
    ]
    disks = [values for name, values in vectors if name == "DISK"]
    for number, disk in enumerate(disks):
        cdrom = ":cdrom" if release != "4.4" and disk["TARGET"] in cdroms else ""
        mode = "r" if disk.get("READONLY") == "YES" else "w"
        lines.append(_disk(disk, directory, number, f"{cdrom},{mode}"))
    for name, values in vectors:
        if name == "CONTEXT":
            lines.append(_disk(values, directory, len(disks), ",r"))
    lines += ["]", "vif = ["]
    lines += [_nic(values) for name, values in vectors if name == "NIC"]
    lines.append("]")
    for name, values in vectors:
        if name == "GRAPHICS":
            lines.append(_screen(values, vm_id))
    lines += [values["DATA"] for name, values in vectors if name == "RAW"]
    return "".join(f"{line}\n" for line in lines)


def _boot(system: Mapping[str, str], directory: str) -> list[str]:
    kernel = f"{directory}/kernel" if "KERNEL_DS" in system else system.get("KERNEL")
    if kernel is not None:
        lines = [f"kernel = '{kernel}'"]
        if "INITRD_DS" in system:
            lines.append(f"ramdisk = '{directory}/initrd'")
        if "KERNEL_CMD" in system:
            lines.append(f"extra = '{system['KERNEL_CMD']}'")
        return lines
    if "BOOTLOADER" in system:
        return [f'bootloader = "{system["BOOTLOADER"]}"']
    letters = "".join(_LETTERS[word] for word in system["BOOT"].split(","))
    return ['builder = "hvm"', f'boot = "{letters}"']


def _disk(values: Mapping[str, str], directory: str, number: int, rest: str) -> str:
    return f"    '{values['DRIVER']}{directory}/disk.{number},{values['TARGET']}{rest}',"


def _nic(values: Mapping[str, str]) -> str:
    # Without a model the driver begins with a blank.
    item = f"model={values['MODEL']},mac=" if "MODEL" in values else " mac="
    # What a virtual network gives is not known before there is a VM.
    item += values.get("MAC", "MAC-OF-THE-NETWORK")
    if "IP" in values:
        item += f",ip={values['IP']}"
    if "BRIDGE" in values or "NETWORK" in values:
        item += f",bridge={values.get('BRIDGE', 'BRIDGE-OF-THE-NETWORK')}"
    return f"    '{item}',"


def _screen(values: Mapping[str, str], vm_id: int) -> str:
    # OpenNebula fills in a missing port: 5900 and the VM's number.
    display = int(values.get("PORT", 5900 + vm_id)) - 5900
    item = f"type=vnc,vnclisten={values['LISTEN']},vncunused=0,vncdisplay={display}"
    if "PASSWD" in values:
        item += f",vncpasswd={values['PASSWD']}"
    if "KEYMAP" in values:
        item += f",keymap={values['KEYMAP']}"
    return f"vfb = ['{item}']"
