"""The reference of all fields, rendered from the JSON schema (``docs/spec.md``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imagekit.spec.model import json_schema
from imagekit.spec.values import format_size

INTRODUCTION = """\
# All fields of a spec

A spec is one YAML file. Unknown keys are refused, and every error names file, line, column and
field. `imagekit schema` prints the same as JSON schema for your editor and, with `--markdown`, this
page; `--set disk.size=4GiB` overrides any field on the command line. Paths of host files start
from the spec's directory.
"""


def markdown() -> str:
    """The reference as Markdown, one table for each part of a spec."""
    schema = json_schema()
    parts = [INTRODUCTION, _table("Spec", schema)]
    parts += [_table(n, d) for n, d in schema["$defs"].items() if "properties" in d]
    return "\n".join(parts)


def _table(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"## {name}", ""]
    if schema.get("description"):
        lines += [schema["description"].split("\n")[0], ""]
    lines += ["| field | value | default | |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for field, value in schema["properties"].items():
        kind = _kind(value).replace(" or nothing", "")
        default = "**required**" if field in required else _default(value)
        lines.append(f"| `{field}` | {kind} | {default} | {value.get('description', '')} |")
    return "\n".join([*lines, ""])


def _kind(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].split("/")[-1]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in value:
            return " or ".join(dict.fromkeys(_kind(v) for v in value[word]))
    if "enum" in value:
        return ", ".join(f"`{v}`" for v in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    kind = value.get("type")
    if kind == "array":
        return "list of " + _kind(value.get("items", {}))
    if isinstance(kind, list):
        return "size, or MiB"
    if _is_size(value):
        return "size, `512MiB`"
    names = {
        "null": "nothing",
        "object": "mapping",
        "string": "text",
        "integer": "number",
        "number": "number",
        "boolean": "`true`, `false`",
    }
    return names.get(str(kind), "any")


def _is_size(value: Mapping[str, Any]) -> bool:
    return value.get("type") == "string" and str(value.get("pattern", "")).startswith("^[0-9]+(\\.")


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    if default in (None, "", [], {}):
        return ""
    if _is_size(value):
        return f"`{format_size(default) if default else 0}`"
    if isinstance(default, dict) or (isinstance(default, list) and isinstance(default[0], dict)):
        return "see there"
    return f"`{json.dumps(default)}`"
