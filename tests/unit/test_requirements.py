"""The locks in requirements/ are those of pyproject.toml, and pin every file by its digest."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
USERS = [
    *PROJECT["project"]["dependencies"],
    *(line for name, lines in EXTRAS.items() if name != "dev" for line in lines),
]
WANTED = {
    "runtime": USERS,
    "dev": [*USERS, *EXTRAS["dev"], *GROUPS["build"], *PROJECT["build-system"]["requires"]],
    **{name: lines for name, lines in GROUPS.items() if name != "build"},
}
DIGEST = re.compile(r"--hash=sha256:[0-9a-f]{64}")
PYTHONS = ("3.11", "3.13")
MACHINES = ("x86_64", "aarch64")


def entries(text: str) -> list[tuple[Requirement, list[str]]]:
    """Each entry of a lock with its options; comments are dropped."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = []
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            name, *options = line.split(" --")
            found.append((Requirement(name), [f"--{option.strip()}" for option in options]))
    return found


def read(name: str) -> list[tuple[Requirement, list[str]]]:
    return entries((ROOT / f"requirements/{name}.txt").read_text())


def pins(name: str, python: str, machine: str) -> dict[str, Version]:
    """Package to version for one Python on one machine."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.2",
        "platform_machine": machine,
        "sys_platform": "linux",
    }
    found: dict[str, Version] = {}
    for entry, _ in read(name):
        if entry.marker is None or entry.marker.evaluate(environment):
            key = canonicalize_name(entry.name)
            assert key not in found, f"{key} is pinned twice for Python {python}"
            (specifier,) = entry.specifier
            found[key] = Version(specifier.version)
    return found


def unmet(wanted: Iterable[str], found: dict[str, Version], python: str, machine: str) -> list[str]:
    """The lines of pyproject.toml that ``found`` does not satisfy."""
    environment = {"python_version": python, "platform_machine": machine, "extra": ""}
    missing = []
    for line in wanted:
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate(environment):
            version = found.get(canonicalize_name(needed.name))
            if version is None or version not in needed.specifier:
                missing.append(f"{line} (locked: {version})")
    return missing


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_lock_satisfies_pyproject(name: str, python: str, machine: str) -> None:
    missing = unmet(WANTED[name], pins(name, python, machine), python, machine)
    assert missing == [], "run make lock"


@pytest.mark.parametrize("name", WANTED)
def test_every_entry_is_one_version_with_digests(name: str) -> None:
    found = read(name)
    assert found
    for entry, options in found:
        assert re.fullmatch(r"==[^*,]+", str(entry.specifier)), entry
        assert entry.url is None
        assert options, f"{entry} has no digest"
        assert all(DIGEST.fullmatch(option) for option in options), entry


@pytest.mark.parametrize("name", WANTED)
def test_a_lock_names_no_index(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|-e|--[a-z-]+(?<!hash))\b", text, re.M)


@pytest.mark.parametrize("name", [name for name in WANTED if name != "dev"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_agree(name: str, python: str) -> None:
    ours, theirs = pins(name, python, "x86_64"), pins("dev", python, "x86_64")
    assert {k: v for k, v in ours.items() if theirs.get(k, v) != v} == {}


def test_there_is_a_lock_for_each_and_no_other() -> None:
    assert {path.stem for path in (ROOT / "requirements").glob("*.txt")} == set(WANTED)


def test_the_setup_takes_only_locked_files() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"^\t.*\$\((?:PIP|LOCKED)\).*$|^\t.*pip install.*$", makefile, re.M)
    assert len(installs) >= 2
    for line in installs:
        assert "$(LOCKED)" in line or "--no-build-isolation --editable ." in line, line
    assert re.search(r"^PIP := .*--no-deps$", makefile, re.M)
    assert re.search(r"^LOCKED := \$\(PIP\) --require-hashes --requirement$", makefile, re.M)


def test_what_does_not_fit_is_seen() -> None:
    text = "a==1.0 ; python_version < '3.12' \\\n    --hash=sha256:1\n    # via x\nb==2 --hash=x\n"
    (first, options), (second, _) = entries(text)
    assert (first.name, options, second.name) == ("a", ["--hash=sha256:1"], "b")
    assert unmet(["a>=2"], {"a": Version("1.0")}, "3.11", "x86_64") == ["a>=2 (locked: 1.0)"]
    assert unmet(["c"], {}, "3.11", "x86_64") == ["c (locked: None)"]
    assert unmet(["c; python_version < '3.11'"], {}, "3.11", "x86_64") == []
