"""What OpenNebula's templates have no attribute for, in the words of xl and xm, for RAW.

Every value is quoted: a bare word as in ``on_crash=destroy`` is a syntax error to xl
(``tools/libs/util/libxlu_cfg_y.y``). A semicolon ends a statement in xl and xm alike.
"""

from __future__ import annotations

from typing import Literal

from imagekit.domain import model
from imagekit.domain.model import Domain, RawValue
from imagekit.domain.text import refuse
from imagekit.toolstacks.literals import literal
from imagekit.toolstacks.xlkeys import check_raw_key

Setting = tuple[str, str, RawValue]
"""The domain's field, the key and the value."""


def raw_data(domain: Domain, driver: Literal["xen3", "xen4"]) -> list[tuple[str, str]]:
    """A statement list per group of fields, each with the field it words; raises SpecError."""
    groups: dict[str, list[str]] = {}
    for field, key, value in _settings(domain, xl=driver == "xen4"):
        groups.setdefault(field, []).append(f"{key} = {literal(value, field)}")
    return [(field, "; ".join(statements)) for field, statements in groups.items()]


def _settings(domain: Domain, *, xl: bool) -> list[Setting]:
    settings: list[Setting] = []
    boot = domain.boot
    if domain.mode == "pvh" or (domain.mode == "hvm" and isinstance(boot, model.DirectKernel)):
        settings.append(("mode", "type", domain.mode))
    if isinstance(boot, model.Firmware) and boot.kind == "uefi":
        settings.append(("boot.kind", "firmware", "uefi"))
    if isinstance(boot, model.Pygrub | model.Netboot) and boot.args:
        settings.append(_arguments(boot.args, xl=xl))
    if domain.maxmem_mib is not None:
        settings.append(("maxmem_mib", "maxmem", domain.maxmem_mib))
    if domain.maxvcpus is not None:
        settings.append(("maxvcpus", "maxvcpus", domain.maxvcpus))
    if domain.cpu.cap is not None:
        settings.append(("cpu.cap", "cap" if xl else "cpu_cap", domain.cpu.cap))
    if domain.cpu.pins:
        settings.append(("cpu.pins", "cpus", model.pin_ranges(domain.cpu.pins)))
    if domain.mode == "hvm":
        settings += [("graphics", key, value) for key, value in _screen(domain.graphics)]
        if domain.serial is not None:
            settings.append(("serial", "serial", domain.serial))
    settings += [
        ("on_poweroff", "on_poweroff", domain.on_poweroff),
        ("on_reboot", "on_reboot", domain.on_reboot),
        ("on_crash", "on_crash", domain.on_crash),
    ]
    for key, value in domain.raw:
        if not xl:
            refuse("raw settings are checked for xl only", f"raw.{key}", "take the driver xen4")
        check_raw_key(key)
        settings.append((f"raw.{key}", key, value))
    return settings


def _arguments(arguments: tuple[str, ...], *, xl: bool) -> Setting:
    if xl:
        return ("boot.args", "bootloader_args", arguments)
    for item in arguments:
        if not item or any(c in item for c in " \t'\"\\"):
            refuse(f"xm splits the argument {item!r} apart", "boot.args", "take the driver xen4")
    return ("boot.args", "bootargs", " ".join(arguments))


def _screen(vnc: model.Vnc | None) -> list[tuple[str, RawValue]]:
    """HVM's screen. GRAPHICS would write these keys with bare words, which xl refuses."""
    if vnc is None:
        return [("vnc", 0)]
    settings: list[tuple[str, RawValue]] = [("vnc", 1), ("vnclisten", vnc.listen)]
    settings.append(("vncunused", 1 if vnc.display is None else 0))
    if vnc.display is not None:
        settings.append(("vncdisplay", vnc.display))
    if vnc.password is not None:
        settings.append(("vncpasswd", vnc.password))
    if vnc.keymap is not None:
        settings.append(("keymap", vnc.keymap))
    return settings
