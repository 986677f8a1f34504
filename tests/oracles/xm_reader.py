"""xm configs as xm and xend understand them, in the shape of ``xl_model``.

A config is Python, but is never executed here: only assignments of literals are taken, by Python's
own parser. The S-expression reader follows ``xen/xend/sxp.py`` of Xen 4.4.
"""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

ESCAPES = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
RATE = re.compile(r"([0-9]+)([GMK]?)([Bb])/s(?:@([0-9]+)([mu]?)s)?")
UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}


def variables(text: str) -> dict[str, Any]:
    """The assignments in a config; anything but ``name = literal`` is an error."""
    found: dict[str, Any] = {}
    for statement in ast.parse(text).body:
        assert isinstance(statement, ast.Assign), ast.dump(statement)
        (target,) = statement.targets
        assert isinstance(target, ast.Name)
        assert target.id not in found
        found[target.id] = ast.literal_eval(statement.value)
    return found


def from_xm(text: str) -> dict[str, Any]:
    """The machine that ``xm create`` would make of a config."""
    v = variables(text)
    hvm = v.get("builder") == "hvm"
    if hvm:
        assert v["kernel"] == "hvmloader"
    screen = v if hvm else _pairs(v["vfb"][0]) if v.get("vfb") else {}
    assert shlex.split(v.get("bootargs", "")) == v.get("bootloader_args", [])
    assert v.get("cap") == v.get("cpu_cap")
    return {
        "name": v["name"],
        "uuid": v["uuid"],
        "mode": "hvm" if hvm else "pv",
        "memory_kib": v["memory"] * 1024,
        "maxmem_kib": v.get("maxmem", v["memory"]) * 1024,
        "vcpus": v["vcpus"],
        "maxvcpus": v.get("maxvcpus", v["vcpus"]),
        "kernel": None if hvm else v.get("kernel"),
        "initrd": v.get("ramdisk"),
        "cmdline": v.get("extra", ""),
        "bootloader": v.get("bootloader"),
        "bootloader_args": shlex.split(v.get("bootargs", "")),
        "firmware": None,
        "boot_order": v["boot"] if hvm else None,
        "weight": v.get("cpu_weight"),
        "cap": v.get("cpu_cap"),
        "pins": cpu_numbers(v["cpus"]) if "cpus" in v else None,
        "disks": [_disk(*item.split(",")) for item in v.get("disk", [])],
        "nics": [_nic(_pairs(item)) for item in v.get("vif", [])],
        "serial": v.get("serial"),
        "vnc": _vnc(screen),
        "on_poweroff": v["on_poweroff"],
        "on_reboot": v["on_reboot"],
        "on_crash": v["on_crash"],
    }


def _pairs(item: str) -> dict[str, str]:
    """xm's comma_sep_kv_to_dict."""
    found: dict[str, str] = {}
    for part in item.strip().split(","):
        key, value = part.split("=", 1)
        assert key.strip() not in found
        found[key.strip()] = value.strip()
    return found


def _disk(uname: str, vdev: str, mode: str) -> dict[str, Any]:
    name, _, kind = vdev.partition(":")
    form, target = "raw", None
    if uname:
        match = re.fullmatch(
            r"(phy|file|tap:(aio|qcow2|vhd)|tap2:tapdisk:(aio|qcow2|vhd)):(/.*)", uname, re.S
        )
        assert match is not None, uname
        driver = match[2] or match[3] or "aio"
        form, target = {"aio": "raw"}.get(driver, driver), match[4]
    assert mode in ("r", "w") and kind in ("", "cdrom")
    return {
        "target": target,
        "format": form if target else "empty",
        "vdev": name,
        "backend": None,
        "readonly": mode == "r",
        "cdrom": kind == "cdrom",
    }


def _nic(pairs: dict[str, str]) -> dict[str, Any]:
    known = {"mac", "bridge", "ip", "script", "type", "model", "rate", "vifname"}
    assert set(pairs) <= known, "xm ends at an unknown key"
    rate = (0, 0)
    if "rate" in pairs:
        match = RATE.fullmatch(pairs["rate"])
        assert match is not None, "xend takes it for unlimited"
        number, unit, letter, interval, prefix = match.groups()
        per_second = int(number) * UNITS[unit] // (8 if letter == "b" else 1)
        micro = int(interval) * {"u": 1, "m": 1000, "": 10**6}[prefix] if interval else 50_000
        rate = (per_second * micro // 1_000_000, micro)
    return {
        "mac": pairs["mac"],
        "bridge": pairs.get("bridge"),
        "ip": pairs.get("ip"),
        "script": pairs.get("script"),
        "model": pairs.get("model"),
        "type": pairs.get("type"),
        "rate": rate,
        "gatewaydev": None,
        "name": pairs.get("vifname"),
    }


def _vnc(screen: dict[str, Any]) -> dict[str, Any] | None:
    if not int(screen.get("vnc", 0)):
        return None
    display = screen.get("vncdisplay")
    assert (display is None) == bool(int(screen["vncunused"]))
    return {
        "listen": screen["vnclisten"],
        "display": None if display is None else int(display),
        "password": screen.get("vncpasswd"),
        "keymap": screen.get("keymap"),
    }


def cpu_numbers(text: str) -> list[int]:
    """``0-2,5`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def from_sxp(text: str) -> dict[str, Any]:
    """The machine in an S-expression."""
    top = read_sxp(text)
    assert top[0] == "vm"
    image = _member(top, "image")
    kind = {part[0]: part[1] for part in image[1:]}
    devices = [item[1] for item in top[1:] if item[0] == "device"]
    disks = [d for d in devices if d[0] in ("vbd", "tap", "tap2")]
    hvm = image[0] == "hvm"
    # XendConfig.py and image.py take 0 for what is missing; xm create fills in 1.
    assert not hvm or {int(kind.get(k, 0)) for k in ("pae", "acpi", "apic", "hap")} == {1}
    frames = [dict(d[1:]) for d in devices if d[0] == "vfb"]
    values = {item[0]: item[1] for item in top[1:] if len(item) == 2}
    most = int(values["vcpus"])
    online = bin(int(values["vcpu_avail"])).count("1") if "vcpu_avail" in values else most
    args = values.get("bootloader_args", "")
    return {
        "name": values["name"],
        "uuid": values["uuid"],
        "mode": "hvm" if hvm else "pv",
        "memory_kib": int(values["memory"]) * 1024,
        "maxmem_kib": int(values["maxmem"]) * 1024,
        "vcpus": online,
        "maxvcpus": most,
        "kernel": None if hvm else kind.get("kernel"),
        "initrd": kind.get("ramdisk"),
        "cmdline": kind.get("args", ""),
        "bootloader": values.get("bootloader"),
        "bootloader_args": [] if args == "-q" else shlex.split(args),
        "firmware": None,
        "boot_order": kind["boot"] if hvm else None,
        "weight": int(values["cpu_weight"]) if "cpu_weight" in values else None,
        "cap": int(values["cpu_cap"]) if "cpu_cap" in values else None,
        "pins": cpu_numbers(values["cpus"]) if "cpus" in values else None,
        "disks": [_sxp_disk(d) for d in disks],
        "nics": [_nic(dict(d[1:])) for d in devices if d[0] == "vif"],
        "serial": kind.get("serial"),
        "vnc": _vnc(kind if hvm else frames[0] if frames else {}),
        "on_poweroff": values["on_poweroff"],
        "on_reboot": values["on_reboot"],
        "on_crash": values["on_crash"],
    }


def _sxp_disk(device: list[Any]) -> dict[str, Any]:
    values = dict(device[1:])
    prefix = values["uname"].split(":")[0]
    assert device[0] == (prefix if prefix in ("tap", "tap2") else "vbd")
    return _disk(values["uname"], values["dev"], values["mode"])


def _member(top: list[Any], name: str) -> Any:
    (found,) = [item[1] for item in top[1:] if item[0] == name]
    return found


def read_sxp(text: str) -> list[Any]:
    """One S-expression; strings and atoms alike become str."""
    stack: list[list[Any]] = [[]]
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "(":
            stack.append([])
        elif character == ")":
            done = stack.pop()
            stack[-1].append(done)
        elif character in "\"'":
            word = ""
            while text[position] != character:
                if text[position] == "\\":
                    position += 1
                    word += ESCAPES.get(text[position], text[position])
                    assert text[position] in {*ESCAPES, "\\", '"', "'"}
                else:
                    word += text[position]
                position += 1
            position += 1
            stack[-1].append(word)
        elif character not in " \t\n":
            start = position - 1
            while position < len(text) and text[position] not in " \t\n(){}<>[];#":
                position += 1
            assert text[start] not in "{}<>[];#@!"
            stack[-1].append(text[start:position])
    (outer,) = stack
    (expression,) = outer
    assert isinstance(expression, list)
    return expression
