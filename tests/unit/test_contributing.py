"""The guides of CONTRIBUTING.md that add a stage and an install method, followed to the letter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import imagekit

PACKAGE = Path(imagekit.__file__).parent
GUIDE = PACKAGE.parent / "CONTRIBUTING.md"

STAGE = '''\
"""How many packages a guest has, for a dashboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.installs.context import BuildContext
from imagekit.pipeline.stage import Stage, StageRun


class PackageCount(Stage):
    """Counts the packages that the artefact ``packages`` lists."""

    name: ClassVar[str] = "package-count"
    title: ClassVar[str] = "counting the packages"
    makes = ("package-count.json",)

    def __init__(self, context: BuildContext, packages: str) -> None:
        self._guest = context.spec.name
        self.needs = (packages,)

    def key(self) -> Mapping[str, Any]:
        return {"guest": self._guest}

    def run(self, run: StageRun) -> None:
        packages = json.loads(run.inputs[self.needs[0]].read_text())
        value = {"guest": self._guest, "packages": len(packages)}
        (run.output / "package-count.json").write_text(json.dumps(value))
'''
PLANNED_BEFORE = """\
    return finish(context, stages, Image(context), lock, packages=packages, sources=sources)
"""
PLANNED = """\
    return finish(
        context,
        [*stages, PackageCount(context, packages)],
        Image(context),
        lock,
        packages=packages,
        sources=sources,
        targets=[Target("package-count.json", "package-count.json", "package-count")],
    )
"""
STAGE_IMPORTS = """\
from imagekit.installs.stages.packagecount import PackageCount
from imagekit.pipeline.stage import Target
"""

MODEL = '''\
class ExistingDisk(InstallMethod):
    """A raw disk that somebody else has made."""

    method: Literal["existing-disk"]
    disk: HostPath = Field(description="The raw image.")
    golden: bool = Field(False, description="Remove machine identity from it.")

    def inputs(self) -> list[str]:
        return [self.disk]
'''
UNION_BEFORE = "Debootstrap | Iso | Netboot | DiskimageBuilder"
UNION = "Debootstrap | Iso | Netboot | DiskimageBuilder | ExistingDisk"
METHOD = '''\
"""The plan of a guest whose raw disk is there already: taken, harvested, and delivered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from imagekit.disk.extents import copy_sparse
from imagekit.errors import SpecError
from imagekit.installs.context import BuildContext
from imagekit.installs.finish import finish
from imagekit.installs.stages.harvesting import Harvest
from imagekit.installs.stages.lockfile import InstalledLock
from imagekit.pipeline.plan import Plan
from imagekit.pipeline.stage import Stage, StageRun, digest_file
from imagekit.spec.install import ExistingDisk


class TakeDisk(Stage):
    """Brings the disk into the store."""

    name: ClassVar[str] = "take-disk"
    title: ClassVar[str] = "copying the disk"
    makes = ("installed.raw",)

    def __init__(self, context: BuildContext, install: ExistingDisk) -> None:
        self._file = context.file
        self._path = context.file.resolve(install.disk)

    def check(self) -> None:
        if not self._path.is_file():
            where = self._file.where("install", "disk")
            raise SpecError(f"there is no disk {self._path}", where=where)

    def key(self) -> Mapping[str, Any]:
        return {"disk": digest_file(self._path)}

    def run(self, run: StageRun) -> None:
        copy_sparse(self._path, run.output / "installed.raw")


def plan(context: BuildContext) -> Plan:
    """The stages that make a guest of a disk. Downloads and writes nothing; raises SpecError."""
    install = context.spec.install
    if not isinstance(install, ExistingDisk):
        raise TypeError(f"install.method is {install.method}")
    return finish(
        context,
        [TakeDisk(context, install)],
        Harvest(context, golden=install.golden),
        InstalledLock(context, "packages.json", {}),
    )
'''
LINE_BEFORE = "        Method(DiskimageBuilder, diskimage_builder.plan),\n"
LINE = "        Method(ExistingDisk, existing_disk.plan),\n"
ELSEWHERE = """\
from imagekit.installs.methods import Method, add_method

add_method(Method(ExistingDisk, plan))
"""
MODEL_IMPORTS = """\
from typing import Literal

from pydantic import Field

from imagekit.spec.install import InstallMethod
from imagekit.spec.values import HostPath

"""
SPEC = """\
name: taken01
os: {suite: bookworm}
install: {method: existing-disk, disk: taken.raw}
disk: {size: 1GiB, formats: [raw, qcow2]}
"""
LITERAL = [STAGE, PLANNED, STAGE_IMPORTS, MODEL, UNION, METHOD, LINE, ELSEWHERE, SPEC]


def run_python(code: str, path: Path, where: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(path), "IMAGEKIT_CACHE": str(where / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=where,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(PACKAGE, tmp_path / "copy/imagekit", ignore=ignored)


def test_a_stage_is_a_file_and_a_place_in_a_plan(copy: Path, tmp_path: Path) -> None:
    (copy / "installs/stages/packagecount.py").write_text(STAGE)
    method = copy / "installs/debootstrap.py"
    text = method.read_text()
    assert text.count(PLANNED_BEFORE) == 1
    first = text.index("from imagekit")
    text = text[:first] + STAGE_IMPORTS + text[first:].replace(PLANNED_BEFORE, PLANNED)
    method.write_text(text)
    (tmp_path / "keys.gpg").write_bytes(b"key")
    (tmp_path / "g.yaml").write_text(
        "name: g\n"
        "os: {suite: bookworm, mirror: 'http://mirror.test/debian', keyring: keys.gpg}\n"
        "install: {method: debootstrap}\n"
    )
    shown = run_python(
        "from imagekit.cli.main import main; import sys;"
        "sys.argv = ['imagekit', 'plan', 'g.yaml', '--json']; main()",
        copy.parent,
        tmp_path,
    )
    stages = {row["name"]: row for row in json.loads(shown)}
    assert stages["package-count"]["title"] == "counting the packages"
    made = run_python(
        """
from pathlib import Path
from imagekit.installs.context import BuildContext
from imagekit.installs.debootstrap import plan
from imagekit.pipeline.events import Events
from imagekit.pipeline.stage import StageRun
from imagekit.pipeline.workspace import workspace
from imagekit.spec.load import load_spec

made = plan(BuildContext(load_spec(Path("g.yaml")), Path("out").absolute()))
stage = made.maker("package-count.json").stage
Path("packages").write_text('[{"name": "bash"}, {"name": "dash"}]')
Path("logs").mkdir()
with workspace(Events()) as space:
    stage.run(StageRun(space, {"packages.json": Path("packages")}, Path(), Path("logs")))
assert "package-count" in [target.role for target in made.targets]
print(Path("package-count.json").read_text())
""",
        copy.parent,
        tmp_path,
    )
    assert json.loads(made) == {"guest": "g", "packages": 2}


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A directory with a spec, and with the method in one file of its own."""
    imported = "from imagekit.spec.install import ExistingDisk\n"
    own = METHOD.replace(imported, f"{MODEL_IMPORTS}\n{MODEL}\n") + ELSEWHERE
    (tmp_path / "existing_disk.py").write_text(own)
    (tmp_path / "taken01.yaml").write_text(SPEC)
    (tmp_path / "taken.raw").write_bytes(bytes(4096))
    return tmp_path


def imagekit_with_it(where: Path, *words: str) -> str:
    code = (
        "import sys; sys.path.insert(0, '.'); import existing_disk;"
        "from imagekit.cli.main import main;"
        f"sys.argv = ['imagekit', *{words!r}]; main()"
    )
    return run_python(code, PACKAGE.parent, where)


STAGES = ["take-disk", "harvest", "configs", "sbom", "lock", "qcow2"]


def test_an_install_method_is_a_model_a_file_and_a_line(taken: Path, copy: Path) -> None:
    spec, methods = copy / "spec/install.py", copy / "installs/methods.py"
    text = spec.read_text()
    assert text.count(UNION_BEFORE) == 1
    union = text.index("Install = Annotated")
    text = f"{text[:union]}{MODEL}\n\n{text[union:]}"
    spec.write_text(text.replace(UNION_BEFORE, UNION))
    (copy / "installs/existing_disk.py").write_text(METHOD)
    text = methods.read_text().replace(LINE_BEFORE, LINE_BEFORE + LINE)
    first = text.index("from imagekit")
    imports = (
        "from imagekit.installs import existing_disk\n"
        "from imagekit.spec.install import ExistingDisk\n"
    )
    methods.write_text(text[:first] + imports + text[first:])
    (taken / "existing_disk.py").unlink()
    shown = run_python(
        "from imagekit.cli.main import main; import sys;"
        "sys.argv = ['imagekit', 'plan', 'taken01.yaml', '--json']; main()",
        copy.parent,
        taken,
    )
    assert [row["name"] for row in json.loads(shown)] == STAGES


def test_a_method_of_somebody_elses_is_a_file_that_adds_itself(taken: Path) -> None:
    stages = json.loads(imagekit_with_it(taken, "plan", "taken01.yaml", "--json"))
    assert [row["name"] for row in stages] == STAGES
    (taken / "taken.raw").write_bytes(bytes(8192))
    again = json.loads(imagekit_with_it(taken, "plan", "taken01.yaml", "--json"))
    assert {a["key"] for a in again} & {b["key"] for b in stages} == set()


def test_it_is_in_the_schema_and_in_the_reference_of_all_fields(taken: Path) -> None:
    schema = json.loads(imagekit_with_it(taken, "schema"))
    assert schema["$defs"]["ExistingDisk"]["properties"]["method"]["const"] == "existing-disk"
    shown = imagekit_with_it(taken, "schema", "--markdown")
    assert "## ExistingDisk" in shown and "| `disk` |" in shown


def test_its_errors_name_the_place_in_the_spec(taken: Path) -> None:
    (taken / "taken.raw").unlink()
    with pytest.raises(AssertionError, match=r"taken01\.yaml:3:\d+ install\.disk"):
        imagekit_with_it(taken, "plan", "taken01.yaml")


def test_no_two_methods_have_one_name(taken: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); import existing_disk as e\n"
        "from imagekit.installs.methods import METHODS, add_method\n"
        "try: add_method(METHODS['iso'])\n"
        "except ValueError as error: print(error)\n"
    )
    assert "iso already" in run_python(code, PACKAGE.parent, taken)


@pytest.mark.skipif(not GUIDE.is_file(), reason="no CONTRIBUTING.md lies beside the package")
def test_the_guides_show_the_very_code_that_is_followed_here() -> None:
    guide = GUIDE.read_text()
    for code in LITERAL:
        assert code in guide, code.splitlines()[0]
