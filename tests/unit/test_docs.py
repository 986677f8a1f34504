"""The documents name what the program has."""

from __future__ import annotations

import re

from oracles.builds import ROOT

import imagekit.errors
from imagekit.cli.main import COMMANDS
from imagekit.spec.reference import markdown


def test_the_reference_is_the_schema_in_words() -> None:
    assert (ROOT / "docs/spec.md").read_text() == markdown(), (
        "run: imagekit schema --markdown > docs/spec.md"
    )


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs/exit-codes.md").read_text()
    documented = {(int(m[1]), m[2]) for m in re.finditer(r"^\| (\d+) \| (\w+) \|", text, re.M)}
    tree = [imagekit.errors.ImagekitError]
    for kind in tree:
        tree += kind.__subclasses__()
    assert {(e.exit_code, e.kind) for e in tree} == documented


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"`imagekit {name}" not in text] == []
