"""The bill of materials of imagekit lists what its users install, with digests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from audit.bill import write_bill

ROOT = Path(__file__).parents[3]


def test_the_bill_names_every_locked_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("cyclonedx_py") is None:
        pytest.skip("missing: cyclonedx-bom, which make audit installs")
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    count = write_bill(ROOT, first)
    assert write_bill(ROOT, second) == count
    assert first.read_bytes() == second.read_bytes()
    bill = json.loads(first.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "imagekit")
    names = {component["name"] for component in bill["components"]}
    assert {"typer", "pydantic", "lxml", "diskimage-builder", "openstacksdk"} <= names
    assert not {"pytest", "ruff", "mypy"} & names
    for component in bill["components"]:
        assert component["purl"].endswith(f"@{component['version']}")
        hashes = [h for r in component["externalReferences"] for h in r.get("hashes", ())]
        assert any(h["alg"] == "SHA-256" for h in hashes), component["name"]
