"""Rules of the house that import-linter cannot hold."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import imagekit

HOUSE = Path(imagekit.__file__).parent
LOOSE = {
    *("test_contributing.py", "test_docs.py", "test_guides.py", "test_house.py"),
    *("test_loose_dicts.py", "test_requirements.py"),
}
"""Tests of the repository as a whole."""
ALONE = {
    "host/sandbox/child/__main__.py": {"imagekit.host.sandbox.child", "imagekit.host.syscalls"},
    "host/sandbox/child/confine.py": {"imagekit.host.sandbox.child", "imagekit.host.syscalls"},
    "host/sandbox/child/filesystem.py": {"imagekit.host.sandbox.child", "imagekit.host.syscalls"},
    "host/sandbox/child/job.py": set(),
    "host/sandbox/child/later.py": {"imagekit.host.syscalls"},
    "host/syscalls.py": set(),
    "host/confinement.py": {"imagekit.host.syscalls"},
    "host/confined_child.py": {"imagekit.host.syscalls"},
    "host/sandbox/gate_child.py": {"imagekit.host.syscalls"},
    "guest/backends/tree_child.py": set(),
    "guest/backends/ext_child.py": {
        *("imagekit.guest.backends", "imagekit.guest.signatures", "imagekit.guest.table"),
        *("imagekit.guest.volumes", "imagekit.host.confinement"),
    },
    "guest/backends/ext_tree.py": {"imagekit.guest.backends"},
    "guest/backends/ext_inodes.py": {"imagekit.guest.backends"},
    "guest/backends/ext_library.py": set(),
    "guest/backends/ext_blocks.py": set(),
    "guest/signatures.py": set(),
    "guest/table.py": set(),
    "guest/volumes.py": {"imagekit.guest.signatures"},
    "proof/dom0/agent.py": {"imagekit.proof.dom0.toolstacks"},
    "proof/dom0/toolstacks.py": set(),
    "proof/svm_fix.py": set(),
}
"""Programs that run confined or in dom0, and what they may import beside the standard library."""


def imported(source: str) -> set[str]:
    """All that ``source`` imports, inside functions too: modules, and names with their modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def foreign(source: str) -> set[str]:
    """What of it is not the standard library's."""
    return {m for m in imported(source) if m.partition(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("program", ALONE)
def test_what_runs_confined_or_in_dom0_imports_the_standard_library_only(program: str) -> None:
    others = foreign((HOUSE / program).read_text())
    assert {o for o in others if not any(f"{o}.".startswith(f"{a}.") for a in ALONE[program])} == (
        set()
    )


def test_every_module_is_in_a_package_so_that_the_contracts_see_it() -> None:
    lost = [p for p in HOUSE.rglob("*.py") if not (p.parent / "__init__.py").is_file()]
    assert lost == []


def test_the_unit_tests_mirror_the_packages() -> None:
    here = Path(__file__).parent
    packages = {p.parent.name for p in HOUSE.glob("*/__init__.py")} | {"audit", "bench", "fuzz"}
    lost = [p for p in here.rglob("test_*.py") if p.parent.name not in packages]
    assert {p.name for p in lost} == LOOSE


def test_imports_are_seen_wherever_they_are() -> None:
    source = "import os.path\ndef f():\n    from imagekit.host import run\n    from . import x\n"
    assert imported(source) == {"os.path", "imagekit.host.run", "..x"}
    assert foreign(source) == {"imagekit.host.run", "..x"}
