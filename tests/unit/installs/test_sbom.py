"""The bill of materials: what its own schema accepts, the same bytes for the same packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL
from ruamel.yaml import YAML

from imagekit.errors import ImageError
from imagekit.installs.stages.sbom import bill_of_materials
from imagekit.spec.load import SpecFile, check_tree

NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9+.-]{1,20}\Z")
VERSIONS = st.from_regex(r"\A([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,15}\Z")


def spec(distribution: str = "debian", suite: str = "bookworm") -> SpecFile:
    method = "{method: debootstrap}"
    if distribution == "rhel":
        method = "{method: iso, iso: ./x.iso, answers: kickstart}"
    text = f"name: web01\nos: {{distribution: {distribution}, suite: {suite}}}\ninstall: {method}\n"
    return check_tree(YAML(typ="rt", pure=True).load(text), Path("web01.yaml"))


def rows(pairs: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": n, "version": v, "architecture": "amd64"} for n, v in pairs.items()]


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES, VERSIONS, max_size=6), st.sampled_from(["debian", "rhel"]))
def test_every_package_is_in_a_document_that_the_schema_accepts(
    pairs: dict[str, str], distribution: str
) -> None:
    value = bill_of_materials(spec(distribution), rows(pairs), [], None)
    text = json.dumps(value)
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    components = value.get("components", [])
    assert {c["name"]: c["version"] for c in components} == pairs
    for component in components:
        url = PackageURL.from_string(component["purl"])
        qualifiers = url.qualifiers
        assert isinstance(qualifiers, dict)
        epoch = f"{qualifiers['epoch']}:" if "epoch" in qualifiers else ""
        assert (url.name, epoch + str(url.version)) == (component["name"], component["version"])
        assert url.type == {"debian": "deb", "rhel": "rpm"}[distribution]


def test_the_same_packages_give_the_same_bytes_in_whatever_order() -> None:
    packages = rows({"libc6": "2.36", "bash": "5.2", "libstdc++6": "12"})
    known = [{**p, "sha256": "a" * 64} for p in packages]
    one = bill_of_materials(spec(), packages, known, 1_700_000_000)
    two = bill_of_materials(spec(), packages[::-1], known[::-1], 1_700_000_000)
    assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert one["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert {c["hashes"][0]["content"] for c in one["components"]} == {"a" * 64}
    other = bill_of_materials(spec(), rows({"libc6": "2.37"}), [], 1_700_000_000)
    assert other["serialNumber"] != one["serialNumber"]


def test_without_a_time_it_names_none() -> None:
    assert "timestamp" not in bill_of_materials(spec(), rows({"bash": "1"}), [], None)["metadata"]


def test_a_package_without_a_name_is_an_error_a_user_can_read() -> None:
    with pytest.raises(ImageError, match="is no package"):
        bill_of_materials(spec(), rows({"": "1"}), [], None)
