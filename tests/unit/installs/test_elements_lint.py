"""Lint finds what would go wrong, in the right line, and is quiet about what is right."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from oracles.elements import make_element
from typer.testing import CliRunner

from imagekit.cli.elements import app
from imagekit.errors import SpecError
from imagekit.installs.elements.catalogue import find_all, load
from imagekit.installs.elements.lint import Finding, lint


def findings(path: Path) -> list[Finding]:
    return lint(load(path, "spec"), find_all())


def test_our_own_elements_have_no_findings() -> None:
    known = find_all()
    ours = [e for e in known.values() if e.origin == "imagekit"]
    assert len(ours) == 8
    assert [str(f) for e in ours for f in lint(e, known)] == []


def test_a_missing_run_bit_is_found(tmp_path: Path) -> None:
    path = make_element(tmp_path, "e", {"install.d/10-x": "#!/bin/bash\ntrue\n"})
    assert findings(path) == []
    (path / "install.d/10-x").chmod(0o644)
    (found,) = findings(path)
    assert "chmod +x" in found.text
    assert found.path == path / "install.d/10-x"


@pytest.mark.parametrize("name", ["instal.d", "post-instal.d", "finalize.d"])
def test_an_unknown_phase_is_found(tmp_path: Path, name: str) -> None:
    path = make_element(tmp_path, "e", {f"{name}/10-x": "#!/bin/bash\n"})
    (found,) = findings(path)
    assert f"{name} is no phase" in found.text


def test_an_unresolvable_dependency_is_found_with_its_line(tmp_path: Path) -> None:
    path = make_element(tmp_path, "e", {}, deps="dpkg\noperating-system\nno-such-element\n")
    (found,) = findings(path)
    assert (found.line, "no-such-element" in found.text) == (3, True)


BASH_ONLY = [
    "if [[ -n $x ]]; then :; fi",
    'if [ "$x" == y ]; then :; fi',
    "function f { :; }",
    'cat <<< "$x"',
    "diff <(ls) /dev/null",
    "ls &> /dev/null",
    "source /etc/os-release",
    "echo ${x/a/b}",
    "a=(1 2)",
    "set -o pipefail",
    "x+=y",
    "declare x=1",
]


@pytest.mark.parametrize("line", BASH_ONLY)
def test_bash_under_sh_is_found_in_its_line(tmp_path: Path, line: str) -> None:
    text = f"#!/bin/sh\nx=1\n{line}\n"
    path = make_element(tmp_path, "e", {"install.d/10-x": text})
    assert 3 in [f.line for f in findings(path)]


@pytest.mark.parametrize("line", BASH_ONLY)
def test_the_same_under_bash_is_fine(tmp_path: Path, line: str) -> None:
    path = make_element(tmp_path, "e", {"install.d/10-x": f"#!/bin/bash\nx=1\n{line}\n"})
    assert findings(path) == []


def test_plain_sh_is_fine_and_dash_agrees(tmp_path: Path) -> None:
    text = """
        #!/bin/sh
        # [[ in a comment, and 'source' in words
        set -eu
        x=${1:-a}; y=${x%.*}
        if [ "$x" = a ] && [ "$y" != b ]; then echo "[[ $x ]]" >&2; fi
        case $x in a|b) : ;; esac
        f() { local z; z=1; printf '%s' "$z" > /dev/null 2>&1; }
        cat <<EOF > /dev/null
        if [[ in a here document ]]; source x; a=(1)
        EOF
        f "$@"
        read -r line < /dev/null || true
        """
    path = make_element(tmp_path, "e", {"install.d/10-x": text})
    script = path / "install.d/10-x"
    subprocess.run(["dash", script], check=True)
    assert findings(path) == []


def test_broken_syntax_is_found_in_its_line(tmp_path: Path) -> None:
    path = make_element(tmp_path, "e", {"install.d/10-x": "#!/bin/bash\nif true; then\nfi\n"})
    (found,) = findings(path)
    assert found.line == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pkg-map", '{"default": {'),
        ("pkg-map", "[]"),
        ("package-installs.yaml", "a: [1\n"),
        ("package-installs.yaml", "- a\n"),
        ("package-installs.json", "{"),
    ],
)
def test_unreadable_data_is_found(tmp_path: Path, name: str, text: str) -> None:
    path = make_element(tmp_path, "e", {name: text})
    (found,) = findings(path)
    assert found.path.name == name


def test_a_script_without_interpreter_is_found(tmp_path: Path) -> None:
    path = make_element(tmp_path, "e", {"install.d/10-x": "true\n"})
    (path / "install.d/10-x").chmod(0o755)
    (found,) = findings(path)
    assert "#!" in found.text


def test_a_missing_readme_is_only_a_warning(tmp_path: Path) -> None:
    path = make_element(tmp_path, "e", {})
    (path / "README.rst").unlink()
    (found,) = findings(path)
    assert found.level == "warning"


def test_the_command_ends_with_the_documented_status(tmp_path: Path) -> None:
    make_element(tmp_path, "good", {"install.d/10-x": "#!/bin/bash\n"})
    assert CliRunner().invoke(app, ["lint", "--path", str(tmp_path)]).exit_code == 0
    make_element(tmp_path, "bad", {"instal.d/10-x": "#!/bin/bash\n"})
    done = CliRunner().invoke(app, ["lint", "--path", str(tmp_path), "--json"])
    assert done.exit_code == SpecError.exit_code
    assert [f["level"] for f in json.loads(done.stdout)] == ["error"]


def test_list_and_show_name_origin_phases_and_variables(tmp_path: Path) -> None:
    make_element(tmp_path, "mine", {"install.d/10-x": "#!/bin/bash\necho $DIB_MINE\n"})
    listed = CliRunner().invoke(app, ["list", "--path", str(tmp_path)]).stdout
    row = next(line for line in listed.splitlines() if line.startswith("mine "))
    assert row.split() == ["mine", "spec", "install"]
    done = CliRunner().invoke(app, ["show", "mine", "--path", str(tmp_path), "--json"])
    facts = json.loads(done.stdout)
    assert facts["phases"] == {"install.d": ["10-x"]}
    assert facts["variables"] == ["DIB_MINE"]


def test_a_wheel_carries_our_elements_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagekit.installs.elements import catalogue

    package = tmp_path / "imagekit"
    shutil.copytree(catalogue.shipped_path(), package / "data/elements")
    monkeypatch.setattr(catalogue, "__file__", str(package / "installs/elements/catalogue.py"))
    assert catalogue.shipped_path() == package / "data/elements"
