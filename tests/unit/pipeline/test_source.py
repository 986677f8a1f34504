"""The code in a stage's key: a changed program makes its results anew, and nothing else does."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import imagekit
from imagekit.errors import ImagekitError
from imagekit.pipeline import source
from imagekit.pipeline.source import code_digest, code_modules, imports
from imagekit.pipeline.stage import Stage

PACKAGE = Path(imagekit.__file__).parent
STAGE = """
from imagekit.pipeline.stage import Stage

SHIPS = ("greeting.txt",)


class Greeting(Stage):
    name = "greeting"
    title = "greeting"
    makes = ("greeting",)

    def key(self):
        return {}

    def run(self, run):
        from imagekit.installs.stages.words import WORDS

        (run.output / "greeting").write_text(WORDS)
"""
PROGRAM = """
import sys
from pathlib import Path
from imagekit.cli import guests
from imagekit.installs.stages.greeting import Greeting
from imagekit.pipeline.events import Events
from imagekit.pipeline.execute import execute
from imagekit.pipeline.plan import make_plan
from imagekit.pipeline.stage import Target, digest_file
from imagekit.pipeline.store import Store

plan = make_plan([Greeting()], [Target("greeting", "greeting", "log")])
done = execute(plan, Store(), Events(), guest="g", fresh=False, digest=digest_file)
print("cached" if done["greeting"].cached else "run")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package with one stage more."""
    ignored = shutil.ignore_patterns("__pycache__")
    copied = shutil.copytree(PACKAGE, tmp_path / "copy/imagekit", ignore=ignored)
    stages = copied / "installs/stages"
    (stages / "greeting.py").write_text(STAGE)
    (stages / "greeting.txt").write_text("hello\n")
    (stages / "words.py").write_text("WORDS = 'hello'\n")
    return copied


def built(path: Path, cache: Path, program: str = PROGRAM) -> str:
    env = {**os.environ, "PYTHONPATH": str(path), "IMAGEKIT_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=cache.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "changed",
    [
        "installs/stages/greeting.py",
        "installs/stages/greeting.txt",
        "installs/stages/words.py",
        "host/run.py",
    ],
)
def test_a_byte_of_a_stage_or_of_what_it_imports_or_ships_makes_it_run_again(
    copy: Path, tmp_path: Path, changed: str
) -> None:
    assert built(copy.parent, tmp_path / "cache") == "run"
    assert built(copy.parent, tmp_path / "cache") == "cached"
    with (copy / changed).open("a") as stream:
        stream.write("\n")
    assert built(copy.parent, tmp_path / "cache") == "run"
    assert built(copy.parent, tmp_path / "cache") == "cached"


@pytest.mark.parametrize("changed", ["cli/build.py", "cli/guests.py", "installs/debootstrap.py"])
def test_a_change_elsewhere_leaves_it_cached(copy: Path, tmp_path: Path, changed: str) -> None:
    assert built(copy.parent, tmp_path / "cache") == "run"
    with (copy / changed).open("a") as stream:
        stream.write("\n# another comment\n")
    assert built(copy.parent, tmp_path / "cache") == "cached"


def test_a_package_in_a_zip_file_is_read_there(copy: Path, tmp_path: Path) -> None:
    program = (
        "from imagekit.pipeline.source import code_digest as d, code_modules as m;"
        "from imagekit.installs.stages.greeting import Greeting as G;"
        "print(d(G), 'imagekit.installs.stages.words' in m(G))"
    )
    seen = set()
    for words, text in (("a", "x"), ("b", "x"), ("b", "y")):
        (copy / "installs/stages/words.py").write_text(f"WORDS = {words!r}\n")
        (copy / "installs/stages/greeting.txt").write_text(text)
        archive = tmp_path / "imagekit.zip"
        with zipfile.ZipFile(archive, "w") as out:
            for path in copy.rglob("*"):
                out.write(path, path.relative_to(copy.parent))
        digest, followed = built(archive, tmp_path / "cache", program).split()
        assert followed == "True"
        seen.add(digest)
    assert len(seen) == 3


def test_what_is_imported_is_found_wherever_it_stands() -> None:
    text = """
import a.b, c as d
from e import (  # why (really)
    f,
    g as h,  # another
)
from . import i
from ..j import k
from m import \\
    n
if TYPE_CHECKING:
    from never import nothing

def lazy():
    import o
    from p import *
"""
    found = {"a.b", "c", "e", "e.f", "e.g", "x.y", "x.y.i", "x.j", "x.j.k", "m", "m.n", "o", "p"}
    assert set(imports(text, "x.y")) == found


def by_grammar(text: str, package: str) -> set[str]:
    """What Python's own parser says that ``text`` imports."""
    tree = ast.parse(text)
    tree.body = [
        statement
        for statement in tree.body
        if not (
            isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")
        )
    ]
    found: set[str] = set()
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Import):
            found |= {alias.name for alias in inner.names}
        elif isinstance(inner, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - inner.level + 1]
            origin = ".".join([*(above if inner.level else []), *filter(None, [inner.module])])
            found |= {origin, *(f"{origin}.{a.name}" for a in inner.names if a.name != "*")}
    return found


def test_the_imports_of_every_module_are_those_that_pythons_parser_finds() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("imagekit", *path.relative_to(PACKAGE).with_suffix("").parts))
        text = path.read_text()
        assert set(imports(text, name.rpartition(".")[0])) == by_grammar(text, name), name


def every_stage() -> Iterator[type[Stage]]:
    for package in ("imagekit.installs", "imagekit.proof"):
        home = importlib.import_module(package)
        for module in pkgutil.walk_packages(home.__path__, f"{package}."):
            if "_child" not in module.name and ".dom0." not in module.name:
                importlib.import_module(module.name)
    queue: list[type[Stage]] = [*Stage.__subclasses__()]
    while queue:
        stage = queue.pop()
        queue += stage.__subclasses__()
        if stage.__module__.startswith("imagekit."):
            yield stage


def test_no_stage_depends_on_the_command_line_and_all_on_themselves() -> None:
    stages = list(every_stage())
    assert len(stages) > 30
    for stage in stages:
        modules = code_modules(stage)
        assert stage.__module__ in modules and "imagekit.host.run" in modules
        assert not [m for m in modules if m.startswith("imagekit.cli")], stage


def test_modules_of_stages_name_the_files_they_read_beside_themselves() -> None:
    # Its templates may lie outside of the package; the text that they make is in the key.
    apart = {"imagekit.answers.render"}
    names = {name for stage in every_stage() for name in code_modules(stage)} - apart
    modules = [importlib.import_module(name) for name in sorted(names) if "imagekit." in name]
    reading = [m for m in modules if "(__file__)" in Path(m.__file__ or "").read_text()]
    assert len(reading) > 8
    assert not [m.__name__ for m in reading if not hasattr(m, "SHIPS")]


def test_the_child_that_changes_the_tree_is_part_of_the_image_stage(
    copy: Path, tmp_path: Path
) -> None:
    program = (
        "from imagekit.pipeline.source import code_digest as d;"
        "from imagekit.installs.stages.image import Image; print(d(Image))"
    )
    before = built(copy.parent, tmp_path / "cache", program)
    assert before == built(copy.parent, tmp_path / "cache", program)
    with (copy / "guest/backends/tree_child.py").open("a") as stream:
        stream.write("\n")
    assert before != built(copy.parent, tmp_path / "cache", program)


def test_a_shipped_file_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ships_nothing.py").write_text(STAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    stage = importlib.import_module("ships_nothing").Greeting
    with pytest.raises(ImagekitError, match=r"greeting\.txt"):
        code_digest(stage)
    (tmp_path / "greeting.txt").write_text("hi")
    source._module.cache_clear()
    assert code_digest(stage)
    assert {"ships_nothing", "imagekit.pipeline.stage"} <= set(code_modules(stage))


def test_who_imports_by_names_found_at_run_time_is_known() -> None:
    # Each of these must be told of in ``loads``, or import other people's programs alone, or the
    # module of a function that the caller has imported (imagekit.host.worker).
    told = {"imagekit.toolstacks.registry"}
    others = {
        "imagekit.host.worker_child",
        "imagekit.installs.elements.blockdevice",
        "imagekit.toolstacks.libvirt.define",
    }
    names = {name for stage in every_stage() for name in code_modules(stage)}
    modules = [importlib.import_module(name) for name in sorted(names) if "imagekit." in name]
    dynamic = {m.__name__ for m in modules if "import_module(" in Path(str(m.__file__)).read_text()}
    assert dynamic - others == told
