"""A toolstack is a folder and a line: what the line gives, and that the folders keep apart."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from oracles.domain_facts import facts_for
from support.domains import FACTS, RELATIVE, make_build

import imagekit
from imagekit.domain.bootpath import domain_for
from imagekit.errors import SpecError
from imagekit.spec.load import load_spec
from imagekit.spec.toolstack_names import toolstack_names
from imagekit.toolstacks import overview
from imagekit.toolstacks.registry import emitter_for, register, toolstack, toolstacks

ROOT = Path(imagekit.__file__).parents[1]
FOLDERS = sorted(path.parent.name for path in (ROOT / "imagekit/toolstacks").glob("*/toolstack.py"))

EMITTER = '''
from imagekit.toolstacks.output import Line, OutputFile, joined


class SketchEmitter:
    """The toolstack ``sketch``: a line per fact."""

    name = "sketch"

    def __init__(self, options):
        self.options = options

    def lines(self, domain, facts):
        raw = [Line(f"{key} is {value}", f"raw.{key}") for key, value in domain.raw]
        return [Line(f"{self.options.greeting} {domain.name}", "name"), *raw]

    def text(self, domain, facts):
        return joined(self.lines(domain, facts))

    def files(self, domain, facts):
        return {f"{domain.name}.{domain.mode}.sketch": OutputFile(self.text(domain, facts))}
'''
DECLARATION = """
from dataclasses import dataclass

from imagekit.toolstacks.declaration import Toolstack

from sketchstack.emitter import SketchEmitter


@dataclass(frozen=True)
class Options:
    greeting: str = "this is"


SKETCH = Toolstack(
    name="sketch",
    gives="a drawing of the guest",
    suffix="sketch",
    page="docs/sketch.md#sketch",
    options=Options,
    emitter=SketchEmitter,
    netboots="arguments",
)
"""
LINE = """
import sys
from imagekit.toolstacks.registry import register
register("sketch", "sketchstack.toolstack:SKETCH")
"""
SPEC = """\
name: web1
os: {suite: bookworm}
install: {method: debootstrap}
toolstacks: [xl, sketch]
machine: {raw: {sketch: {colour: blue}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that holds a new toolstack's folder."""
    stack = tmp_path / "stacks/sketchstack"
    stack.mkdir(parents=True)
    (stack / "__init__.py").touch()
    (stack / "emitter.py").write_text(EMITTER)
    (stack / "toolstack.py").write_text(DECLARATION)
    return stack.parent


def python(folder: Path, program: str, *arguments: str | Path) -> str:
    """What ``program`` prints once the new toolstack's line is read, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", LINE + program, *map(str, arguments)],
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin", "COLUMNS": "2000"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(folder: Path, *arguments: str | Path) -> str:
    return python(folder, "from imagekit.cli.main import main\nmain()", *arguments)


def test_a_new_toolstack_is_in_the_help_and_the_schema(folder: Path) -> None:
    shown = command(folder, "config", "--help")
    last = toolstack_names()[-1]
    assert f"{last}, sketch." in shown
    assert "sketch greeting" in shown
    schema = json.loads(command(folder, "schema"))
    assert schema["properties"]["toolstacks"]["items"]["enum"][-1] == "sketch"
    assert schema["$defs"]["Machine"]["properties"]["raw"]["propertyNames"]["enum"][-1] == "sketch"
    assert f"`{last}`, `sketch`" in command(folder, "schema", "--markdown")


def test_a_new_toolstack_words_a_build(folder: Path, tmp_path: Path) -> None:
    build = make_build(tmp_path / "build", RELATIVE)
    words = ("config", build, "--toolstack", "sketch")
    assert command(folder, *words) == "this is web1\n"
    assert command(folder, *words, "--option", "greeting=hello,") == "hello, web1\n"
    out = tmp_path / "out"
    assert command(folder, *words, "-o", out).strip() == str(out / "web1.pv.sketch")
    assert "this is web1  # spec: name" in command(folder, *words, "--explain")


def test_a_build_writes_the_config_of_a_new_toolstack(folder: Path, tmp_path: Path) -> None:
    spec = tmp_path / "web1.yaml"
    spec.write_text(SPEC)
    program = """
from pathlib import Path
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.configs import Configs
from imagekit.spec.load import load_spec
file = load_spec(Path(sys.argv[1]))
print(*Configs(BuildContext(file, Path("/srv"))).makes, file.spec.machine.raw, sep="\\n")
"""
    made = python(folder, program, spec).splitlines()
    assert {"web1.pv.sketch", "web1.pvh.sketch", "web1.hvm.sketch", "web1.pv.xl.cfg"} <= {*made}
    assert made[-1] == "{'sketch': {'colour': 'blue'}}"


def test_a_new_toolstack_has_its_row_in_the_documents(folder: Path) -> None:
    printed = python(folder, "from imagekit.toolstacks.overview import table\nprint(table())")
    (row,) = [line for line in printed.splitlines() if "sketch" in line]
    assert row == (
        "| [sketch](sketch.md#sketch) | a drawing of the guest | `NAME.MODE.sketch` "
        "| `greeting` | yes | |"
    )


@pytest.mark.parametrize(
    ("name", "place", "error"),
    [
        ("xl", "imagekit.toolstacks.xl.toolstack:XL", ValueError),
        ("other", "imagekit.toolstacks.xl.toolstack:XL", TypeError),
        ("other", "imagekit.toolstacks.xl.emitter:EMITTER", TypeError),
        ("other", "imagekit.toolstacks.xl.toolstack:OTHER", AttributeError),
        ("other", "imagekit.toolstacks.other:OTHER", ImportError),
    ],
)
def test_a_line_that_leads_nowhere_enters_nothing(
    name: str, place: str, error: type[Exception]
) -> None:
    before = toolstack_names()
    with pytest.raises(error):
        register(name, place)
    assert toolstack_names() == before


def test_the_documents_have_every_toolstack() -> None:
    assert overview.table() in (ROOT / "docs/toolstacks.md").read_text(), (
        "run: python -m imagekit.toolstacks.overview, and put it into docs/toolstacks.md"
    )


def test_a_build_calls_a_config_as_config_does() -> None:
    for found in toolstacks():
        if found.name == "quattor":
            continue  # Pan wants its templates under paths of their own
        domain = domain_for(FACTS, mode="pv")
        if found.name != "xva":
            names = emitter_for(found.name).files(domain, facts_for(domain))
            assert f"{domain.name}.pv.{found.suffix}" in names


def test_a_spec_names_toolstacks_there_are_alone(tmp_path: Path) -> None:
    spec = tmp_path / "web1.yaml"
    spec.write_text(SPEC)
    with pytest.raises(SpecError) as caught:
        load_spec(spec)
    text = str(caught.value)
    assert "web1.yaml:4:18 toolstacks[1]: 'sketch' is not a toolstack" in text
    assert "be one of xl, xm" in text
    assert "machine.raw.sketch: 'sketch' is not a toolstack" in text


def test_specs_know_all_toolstacks_without_the_toolstacks(tmp_path: Path) -> None:
    spec = tmp_path / "web1.yaml"
    spec.write_text(SPEC.replace("sketch]", "quattor, xva]").split("machine:")[0])
    program = f"""
import sys
from pathlib import Path
from imagekit.spec.load import load_spec
assert load_spec(Path({str(spec)!r})).spec.toolstacks == ["xl", "quattor", "xva"]
assert not [name for name in sys.modules if name.startswith("imagekit.toolstacks")]
"""
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=60)


def test_every_folder_is_declared_and_held_apart() -> None:
    assert {toolstack(name).name for name in toolstack_names()} == {*toolstack_names()}
    declared = {type(found.emitter(found.options())).__module__ for found in toolstacks()}
    assert sorted({module.split(".")[2] for module in declared}) == FOLDERS
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    for contract in config["contracts"]:
        if contract["type"] in ("independence", "forbidden") and "oolstack" in contract["name"]:
            listed = contract.get("modules") or contract["source_modules"]
            assert listed == [f"imagekit.toolstacks.{name}" for name in FOLDERS], contract["name"]
