"""The names of the toolstacks, a line each: what a spec may name, and where each is declared.

A spec is checked before any toolstack is known, so that the list lies here, as text; it is
:mod:`imagekit.toolstacks.registry` that imports what the lines name.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, GetJsonSchemaHandler

from imagekit.spec.nearest import did_you_mean

_DECLARED: dict[str, str] = {
    "xl": "imagekit.toolstacks.xl.toolstack:XL",
    "xm": "imagekit.toolstacks.xm.toolstack:XM",
    "libvirt": "imagekit.toolstacks.libvirt.toolstack:LIBVIRT",
    "opennebula": "imagekit.toolstacks.opennebula.toolstack:OPENNEBULA",
    "glance": "imagekit.toolstacks.glance.toolstack:GLANCE",
    "xapi": "imagekit.toolstacks.xapi.toolstack:XAPI",
    "xva": "imagekit.toolstacks.xapi.toolstack:XVA",
    "quattor": "imagekit.toolstacks.quattor.toolstack:QUATTOR",
}


def toolstack_names() -> tuple[str, ...]:
    """The names of all toolstacks, in the order in which they are shown."""
    return tuple(_DECLARED)


def declared_at(name: str) -> str | None:
    """``MODULE:OBJECT``, the declaration of the toolstack ``name``; None if there is none."""
    return _DECLARED.get(name)


def enter(name: str, place: str) -> None:
    """Add the toolstack ``name``, declared at ``place``; raises ValueError for a name taken."""
    if name in _DECLARED:
        raise ValueError(f"there is a toolstack {name} already")
    _DECLARED[name] = place


def _known(value: str) -> str:
    if value not in _DECLARED:
        known = ", ".join(_DECLARED)
        raise ValueError(
            f"{value!r} is not a toolstack: it must be one of {known}"
            + did_you_mean(value, _DECLARED)
        )
    return value


class _Enumerated:
    """Lists the names in the JSON schema, those that were entered later as well."""

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(core_schema), "enum": list(_DECLARED)}


ToolstackName = Annotated[str, AfterValidator(_known), _Enumerated()]
"""The name of a toolstack in a spec; unlike a Literal it knows what is entered later."""
