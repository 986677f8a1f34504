"""Packages that elements will install, found before anything is run.

What is found here is installed together with the rest of the tree, in one go, so that the elements
find it there. Only what needs no guessing counts: a ``when:`` on a variable that the spec does not
set is left to the element itself. The rules are those of package-installs-squash and pkg-map of
diskimage-builder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ruamel.yaml.error import YAMLError

from imagekit.errors import SpecError
from imagekit.installs.elements import content
from imagekit.installs.elements.catalogue import Element
from imagekit.spec.yamltext import yaml_reader

FAMILIES = {"debian": "debian", "ubuntu": "debian"}
MAX_DATA = 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_WHEN = re.compile(r"(\w+)\s*(!?=)\s*(.*)")


def planned_packages(
    elements: Sequence[Element],
    *,
    distribution: str,
    suite: str,
    arch: str,
    environment: Mapping[str, str],
) -> list[str]:
    """Names of packages that the elements are certain to install, sorted, each once.

    A package that any element removes again is left out. Raises SpecError for files of an element
    that cannot be read.
    """
    wanted: set[str] = set()
    removed: set[str] = set()
    for element in elements:
        mapping = _mapping(element, distribution, suite)
        for name, entry in _entries(element):
            real = mapping.get(name, name).split()
            if "uninstall" in entry or "build-only" in entry:
                removed.update(real)
            elif _certain(element, entry, arch, environment):
                wanted.update(p for p in real if _NAME.fullmatch(p))
    return sorted(wanted - removed)


def _entries(element: Element) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for suffix in (".json", ".yaml"):
        path = element.path / f"package-installs{suffix}"
        text = content.text(element.path, path.name)
        if text is None:
            continue
        text = text[:MAX_DATA]
        try:
            value = json.loads(text) if suffix == ".json" else yaml_reader().load(text)
        except (ValueError, YAMLError, RecursionError):
            raise SpecError(
                f"the element {element.name} has a {path.name} that cannot be read",
                where=str(path),
                hint=f"imagekit elements lint {element.path}",
            ) from None
        for name, params in (value or {}).items() if isinstance(value, dict | None) else ():
            for entry in params if isinstance(params, list) else [params]:
                yield str(name), entry if isinstance(entry, dict) else {}


def _certain(
    element: Element, entry: Mapping[str, Any], arch: str, environment: Mapping[str, str]
) -> bool:
    if entry.get("arch") and arch not in str(entry["arch"]).split(","):
        return False
    if entry.get("not-arch") and arch in str(entry["not-arch"]).split(","):
        return False
    version = str(entry.get("dib_python_version", ""))
    if version not in ("", environment.get("DIB_PYTHON_VERSION", "")):
        return False
    default = environment.get("DIB_DEFAULT_INSTALLTYPE", "source")
    kind = environment.get(f"DIB_INSTALLTYPE_{element.name.replace('-', '_')}", default)
    if entry.get("installtype") not in (None, kind):
        return False
    conditions = entry.get("when") or []
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        match = _WHEN.match(str(condition))
        if match is None or match[1] not in environment:
            return False
        if (environment[match[1]] == match[3]) != (match[2] == "="):
            return False
    return True


def _mapping(element: Element, distribution: str, suite: str) -> dict[str, str]:
    path = element.path / "pkg-map"
    text = content.text(element.path, path.name)
    if text is None:
        return {}
    try:
        value = json.loads(text[:MAX_DATA])
        found = dict(value.get("default") or {})
        found |= (value.get("family") or {}).get(FAMILIES[distribution]) or {}
        found |= (value.get("distro") or {}).get(distribution) or {}
        found |= ((value.get("release") or {}).get(distribution) or {}).get(suite) or {}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise SpecError(
            f"the element {element.name} has a pkg-map that cannot be read",
            where=str(path),
            hint=f"imagekit elements lint {element.path}",
        ) from None
    return {str(k): str(v) for k, v in found.items()}
