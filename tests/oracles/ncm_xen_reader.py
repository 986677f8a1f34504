"""What ncm-xen and xm make of domain options: its file replayed, and read as xm reads it.

Source: configuration-modules-core 14.4, ``xen.pm`` (createConfigFile, VbdParams, PrintSimpleParams)
and ``schema.pan``.
"""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

from oracles import xm_reader

SCHEMA: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "kernel", "ramdisk", "builder", "cpus", "vtpm", "ip"), str),
    **dict.fromkeys(("bootloader", "bootargs", "hostname", "root", "nfs_root", "extra"), str),
    **dict.fromkeys(("vfb", "on_poweroff", "on_reboot", "on_crash"), str),
    **dict.fromkeys(("memory", "vcpus"), int),
    **dict.fromkeys(("vif", "disk", "download"), list),
}


def replay(options: dict[str, Any]) -> str:
    """The lines ncm-xen appends to a new file for ``options``, checked against its schema."""
    for name, value in options.items():
        assert isinstance(value, SCHEMA[name]), name
    lines = []
    for name in sorted(set(options) - {"bootargs"}) + sorted(set(options) & {"bootargs"}):
        value = options[name]
        if name == "disk":
            text = "[" + ",".join(map(_vbd, value)) + "]"
        elif name == "vif":
            text = "[" + ",".join("'" + item + "'" for item in value) + "]"
        else:
            text = str(value)
            if "[" not in text:
                text = "'" + text + "'"
        # Perl compiles it; these are the characters on which the two syntaxes agree.
        pattern = text.replace("[", r"\[").replace("]", r"\]")
        assert not re.search(r"[\\(){}*?|^$]", pattern.replace(r"\[", "").replace(r"\]", ""))
        lines.append(f"{name} = {text}\n")
    return "".join(lines)


def _vbd(disk: dict[str, Any]) -> str:
    assert set(disk) <= {"type", "hostdevice", "hostvol", "path", "guestdevice", "rw", "size"}
    end = f"{disk['guestdevice']},{disk['rw']}"
    if disk["type"] == "lvm":
        return f"'phy:/dev/{disk['hostdevice']}/{disk['hostvol']},{end}'"
    if disk["type"] == "phy":
        return f"'phy:/dev/{disk['hostdevice']},{end}'"
    assert disk["type"] == "file"
    return f"'file:{disk['path']},{end}'"


def variables(text: str) -> dict[str, Any]:
    """xm's variables: literals, and ``vif[0]`` looked up among those before it."""
    found: dict[str, Any] = {}
    for statement in ast.parse(text).body:
        assert isinstance(statement, ast.Assign)
        (target,) = statement.targets
        assert isinstance(target, ast.Name) and target.id not in found
        if isinstance(statement.value, ast.Subscript):
            name, index = statement.value.value, statement.value.slice
            assert isinstance(name, ast.Name) and isinstance(index, ast.Constant)
            found[target.id] = found[name.id][index.value]
        else:
            found[target.id] = ast.literal_eval(statement.value)
    return found


def machine(text: str) -> dict[str, Any]:
    """The machine in the file, in the shape of ``xl_model`` without a UUID."""
    values = variables(text)
    assert text.isascii()
    for name in ("memory", "vcpus"):
        values[name] = int(values[name])
    if "vfb" in values:
        # xm knows both ways to ask for VNC, Xen 3.0 this one only.
        (screen,) = values["vfb"]
        assert screen.startswith("type=vnc,")
        values["vfb"] = [screen.replace("type=vnc", "vnc=1", 1)]
    arguments = shlex.split(values.pop("bootargs", ""))
    literal = "".join(f"{key} = {value!r}\n" for key, value in values.items())
    shape = xm_reader.from_xm(literal + "uuid = ''\n")
    shape["bootloader_args"] = arguments
    del shape["uuid"]
    return shape
