"""OpenNebula's template grammar: attributes, vector attributes, quoted strings.

Source: ``src/template/template_parser.l`` and ``template_syntax.y`` of OpenNebula 4.4. A string in
double quotes runs to the last quote that no backslash precedes; then each ``\\"`` becomes ``"`` and
every other backslash stays. Templates are kept as XML with each value in a CDATA section.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imagekit.domain.text import one_line, refuse

Pair = tuple[str, str]
"""An attribute's name in capitals, and its value unquoted."""

_SHELL_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def string(value: str, where: str) -> str:
    """``value`` in double quotes; raises SpecError for what the grammar cannot carry."""
    one_line(value, where, tab=True)
    if not value:
        refuse("is empty, which OpenNebula's templates cannot quote", where, "leave it out")
    if value.endswith("\\"):
        refuse(
            "ends in a backslash, which would swallow the closing quote of OpenNebula's template",
            where,
            "end it otherwise",
        )
    if "]]>" in value:
        refuse("holds ]]>, which ends the value where OpenNebula stores it", where, "leave it out")
    return '"' + value.replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Attribute:
    """One attribute: its name, its value or the pairs of a vector, and the field it words."""

    name: str
    value: str | tuple[Pair, ...]
    field: str

    def __str__(self) -> str:
        """``NAME = "value"`` or ``NAME = [ A = "x", B = "y" ]``; raises SpecError."""
        if isinstance(self.value, str):
            return f"{self.name} = {string(self.value, self.field)}"
        pairs = [f"{key} = {string(value, self.field)}" for key, value in self.value]
        return f"{self.name} = [ {', '.join(pairs)} ]"


def source_path(value: str, where: str) -> str:
    """A path that OpenNebula's datastore scripts can copy from.

    They put it into a shell command unquoted (``src/datastore_mad/remotes/fs/cp``), so that only
    characters without a meaning to the shell pass; raises SpecError for others.
    """
    if _SHELL_WORD.fullmatch(value) is None:
        refuse(
            f"{value!r} holds characters that OpenNebula's datastore scripts hand to a shell",
            where,
            "rename the file: letters, digits and _ @ % + = : , . / -",
        )
    return value


def bare(value: str, where: str) -> str:
    """A value for the deployment file, where the driver writes it between quotes unescaped.

    Raises SpecError for quotes and backslashes: they would end the string or change it
    (``src/vmm/XenDriver.cc``).
    """
    found = re.search(r"['\"\\]", value)
    if found:
        refuse(
            f"holds {found[0]}, which OpenNebula writes into Xen's config without escaping it",
            where,
            "leave it out, or boot through pygrub, which reads it inside the image",
        )
    return value
