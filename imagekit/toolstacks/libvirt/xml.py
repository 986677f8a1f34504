"""Building libvirt XML: elements whose text and attributes lxml escapes."""

from __future__ import annotations

from typing import Any

from lxml import etree

from imagekit.errors import SpecError

Element = Any
"""An lxml element; the library carries no types."""


def add(parent: Element, tag: str, text: str | None = None, **attributes: str) -> Element:
    """A new child of ``parent``; raises SpecError for text that XML cannot hold."""
    try:
        child = etree.SubElement(parent, tag, attributes)
        if text is not None:
            child.text = text
    except ValueError as error:
        raise SpecError(f"XML cannot hold {text!r}: {error}", where=tag) from error
    return child
