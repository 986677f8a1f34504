"""OpenNebula templates as oned reads them: a tokenizer for its grammar, and the domain in them.

The grammar is that of ``src/template/template_parser.l`` and ``template_syntax.y`` (4.4): a quoted
string is the longest match of anything but a quote, or a backslash and a quote.
"""

from __future__ import annotations

import re
from typing import Any

from oracles import xl_cfg

_BLANK = re.compile(r"[ \t\n]+")
_COMMENT = re.compile(r"[ \t]*#.*\n")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_EQUAL = re.compile(r"[ \t]*=[ \t]*")
_QUOTED = re.compile(r'"((?:\\"|[^"])+)"')
_OPEN = re.compile(r"[ \t]*\[[ \t\n]*")
_COMMA = re.compile(r"[ \t\n]*,[ \t\n]*")
_CLOSE = re.compile(r"[ \t\n]*\][ \t\n]*")

Attributes = list[tuple[str, str | dict[str, str]]]


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def need(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = self.take(pattern)
        assert match, (pattern.pattern, self.text[self.at : self.at + 80])
        return match

    def pair(self) -> tuple[str, str]:
        name = self.need(_NAME)[0].upper()
        self.need(_EQUAL)
        return name, _unescape(self.need(_QUOTED)[1])


def _unescape(value: str) -> str:
    """As ``unescape`` of template_syntax.y: a walk that drops a backslash before a quote."""
    position = value.find("\\")
    while position != -1:
        if value[position + 1 : position + 2] == '"':
            value = value[:position] + value[position + 1 :]
        position = value.find("\\", position + 1)
    return value


def parse(text: str) -> Attributes:
    """Every attribute of a template in order; AssertionError for a syntax error."""
    scan = _Scanner(text)
    found: Attributes = []
    while True:
        while scan.take(_COMMENT) or scan.take(_BLANK):
            pass
        if scan.at == len(text):
            return found
        start = scan.at
        name = scan.need(_NAME)[0].upper()
        scan.need(_EQUAL)
        if not scan.take(_OPEN):
            scan.at = start
            found.append(scan.pair())
            continue
        pairs = [scan.pair()]
        while scan.take(_COMMA):
            pairs.append(scan.pair())
        scan.need(_CLOSE)
        found.append((name, dict(pairs)))


def from_templates(vm: str, images: list[str]) -> dict[str, Any]:
    """The domain in a VM template and the image templates it refers to.

    In the shape of ``xl_model.expected``, as far as OpenNebula goes: no UUID and no back-ends.
    """
    attributes = parse(vm)
    single = {name: value for name, value in attributes if isinstance(value, str)}
    registered = [dict(_strings(parse(image))) for image in images]
    by_name = {image["NAME"]: image for image in registered}
    raw: dict[str, Any] = {}
    for values in _all(attributes, "RAW"):
        assert values["TYPE"] == "xen"
        settings = xl_cfg.read("".join(f"{one}\n" for one in _statements(values["DATA"])))
        assert not set(raw) & set(settings)
        raw |= settings
    (system,) = _all(attributes, "OS")
    shape = _boot(system, by_name, raw)
    return {
        **shape,
        "name": single["NAME"],
        "arch": system["ARCH"],
        "memory_kib": int(single["MEMORY"]) * 1024,
        "maxmem_kib": int(raw.get("maxmem", single["MEMORY"])) * 1024,
        "vcpus": int(single["VCPU"]),
        "maxvcpus": int(raw.get("maxvcpus", single["VCPU"])),
        "weight": float(single["CPU"]) * 256,
        "cap": raw.get("cap"),
        "pins": _numbers(raw.get("cpus")),
        "serial": raw.get("serial"),
        "disks": [_disk(values, by_name) for values in _all(attributes, "DISK")],
        "nics": [_nic(values) for values in _all(attributes, "NIC")],
        "vnc": _vnc(_all(attributes, "GRAPHICS"), raw),
        "on_poweroff": raw["on_poweroff"],
        "on_reboot": raw["on_reboot"],
        "on_crash": raw["on_crash"],
    }


def _statements(data: str) -> list[str]:
    """xl's statements, which a semicolon outside a string ends."""
    return re.findall(r"""((?:[^;"]|"(?:[^"\\]|\\.)*")+)(?:; )?""", data)


def _strings(attributes: Attributes) -> list[tuple[str, str]]:
    assert all(isinstance(value, str) for _, value in attributes)
    return [(name, value) for name, value in attributes if isinstance(value, str)]


def _all(attributes: Attributes, name: str) -> list[dict[str, str]]:
    return [value for key, value in attributes if key == name and isinstance(value, dict)]


def _boot(
    system: dict[str, str], images: dict[str, dict[str, str]], raw: dict[str, Any]
) -> dict[str, Any]:
    kernel = system.get("KERNEL") or _file(system.get("KERNEL_DS"), images, "KERNEL")
    letters = {"hd": "c", "fd": "a", "cdrom": "d", "network": "n"}
    hvm = kernel is None and "BOOTLOADER" not in system
    return {
        "mode": raw.get("type", "hvm" if hvm else "pv"),
        "kernel": kernel,
        "initrd": _file(system.get("INITRD_DS"), images, "RAMDISK"),
        "cmdline": system.get("KERNEL_CMD", ""),
        "bootloader": None if kernel else system.get("BOOTLOADER"),
        "bootloader_args": raw.get("bootloader_args", []),
        "firmware": {"uefi": "ovmf", None: None}[raw.get("firmware")],
        "boot_order": "".join(letters[w] for w in system["BOOT"].split(",")) if hvm else None,
    }


def _file(reference: str | None, images: dict[str, dict[str, str]], kind: str) -> str | None:
    if reference is None:
        return None
    match = re.fullmatch(r'\$FILE\[IMAGE="([^"]+)"\]', reference)
    assert match
    image = images[match[1]]
    assert image["TYPE"] == kind
    return image["PATH"]


def _disk(values: dict[str, str], images: dict[str, dict[str, str]]) -> dict[str, Any]:
    image = images[values["IMAGE"]]
    formats = {"raw:": "raw", "phy:": "raw", "qcow2:": "qcow2", "vhd:": "vhd"}
    return {
        "target": image["PATH"],
        "format": formats[values["DRIVER"]],
        "vdev": values["TARGET"],
        "readonly": values.get("READONLY") == "YES",
        "cdrom": image["TYPE"] == "CDROM",
    }


def _nic(values: dict[str, str]) -> dict[str, Any]:
    return {
        "mac": values["MAC"],
        "bridge": values["BRIDGE"],
        "ip": values.get("IP"),
        "model": values.get("MODEL"),
    }


def _vnc(graphics: list[dict[str, str]], raw: dict[str, Any]) -> dict[str, Any] | None:
    if graphics:
        (screen,) = graphics
        port = screen.get("PORT")
        return {
            "listen": screen["LISTEN"],
            "display": None if port is None else int(port) - 5900,
            "password": screen.get("PASSWD"),
            "keymap": screen.get("KEYMAP"),
        }
    if raw.get("vnc") != 1:
        return None
    return {
        "listen": raw["vnclisten"],
        "display": None if raw["vncunused"] else raw["vncdisplay"],
        "password": raw.get("vncpasswd"),
        "keymap": raw.get("keymap"),
    }


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    ends = [item.split("-") for item in text.split(",")]
    return [n for pair in ends for n in range(int(pair[0]), int(pair[-1]) + 1)]
