"""The XML-RPC values of an XVA's ``ova.xml``, as XAPI writes them.

Source: mirage/ocaml-rpc, ``src/lib/xmlrpc.ml``: a number is a bare value like a string.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from imagekit.domain.text import refuse
from imagekit.toolstacks.xapi.records import Value


def value(item: Value, where: str = "") -> str:
    """``item`` as a ``<value>``; raises SpecError for text whose blanks XAPI might fold."""
    if isinstance(item, bool):
        return f"<value><boolean>{int(item)}</boolean></value>"
    if isinstance(item, int):
        return f"<value>{item}</value>"
    if isinstance(item, float):
        return f"<value><double>{item:.16g}</double></value>"
    if isinstance(item, str):
        return f"<value>{_text(item, where)}</value>"
    if isinstance(item, tuple):
        return (
            f"<value><array><data>{''.join(value(i, where) for i in item)}</data></array></value>"
        )
    members = "".join(member(key, inner, where) for key, inner in item.items())
    return f"<value><struct>{members}</struct></value>"


def member(name: str, item: Value, where: str = "") -> str:
    """A struct's ``<member>``."""
    return f"<member><name>{_text(name, where)}</name>{value(item, where)}</member>"


def _text(text: str, where: str) -> str:
    # The reader (xmlm) is free to fold white space at the ends and in runs.
    if text != " ".join(text.split()):
        refuse(
            "has blanks at an end, two in a row or a tab, which XAPI's XML reader may fold",
            where,
            "write single blanks",
        )
    return escape(text, {'"': "&quot;"})
