"""xl.cfg's value grammar: strings, numbers, lists.

Source: ``tools/libs/util/libxlu_cfg_l.l`` and ``libxlu_cfg_y.y`` of Xen 4.17. The same text is a
Python literal, so xm reads it alike. Numeric escapes are never written: xl refuses ``\\x41`` and
silently drops the character of ``\\101``.
"""

from __future__ import annotations

from imagekit.domain.model import RawValue
from imagekit.domain.text import one_line, refuse


def string(value: str, where: str = "value") -> str:
    """``value`` in double quotes; raises SpecError for a character that no escape carries."""
    one_line(value, where, tab=True)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return f'"{escaped}"'


def literal(value: RawValue, where: str = "value") -> str:
    """A string, a number from 0 up (decimal: a leading zero would mean octal), or a list."""
    if isinstance(value, str):
        return string(value, where)
    if isinstance(value, tuple):
        return f"[ {', '.join(literal(item, where) for item in value)} ]" if value else "[ ]"
    if value < 0:
        refuse(f"{value} is negative; xl has no such numbers", where)
    return str(int(value))


def spec_value(value: str, where: str) -> str:
    """A value inside a vif or vfb item, which is split at commas after unquoting.

    Raises SpecError for a comma, which those items cannot hold (``tools/xl/xl_parse.c``).
    """
    if "," in value:
        refuse(f"{value!r} holds a comma, which splits the item", where)
    return value
