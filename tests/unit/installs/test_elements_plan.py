"""Plans with elements: what they add, what they refuse, and that others stay as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from oracles.elements import make_element

from imagekit.errors import SpecError
from imagekit.installs import debootstrap, diskimage_builder
from imagekit.installs.context import BuildContext
from imagekit.installs.elements import environment, hooks
from imagekit.installs.elements.catalogue import find_all, library_path, load
from imagekit.installs.elements.failures import find_culprit
from imagekit.pipeline.plan import Plan
from imagekit.spec.load import SpecFile, load_spec


def spec_of(tmp_path: Path, *overrides: str) -> SpecFile:
    keyring = tmp_path / "keys.gpg"
    keyring.write_bytes(b"key")
    path = tmp_path / "g.yaml"
    path.write_text(
        "name: g\n"
        "os: {suite: bookworm, mirror: 'http://mirror.test/debian', keyring: keys.gpg}\n"
        "install: {method: debootstrap}\n"
    )
    return load_spec(path, overrides)


def names(plan: Plan) -> list[str]:
    return [p.stage.name for p in plan.stages]


def key(plan: Plan, stage: str) -> str:
    return next(p.key for p in plan.stages if p.stage.name == stage)


def test_a_spec_without_elements_has_no_stage_of_theirs(tmp_path: Path) -> None:
    plan = debootstrap.plan(BuildContext(spec_of(tmp_path), tmp_path / "out"))
    assert [n for n in names(plan) if n.startswith("elements")] == []
    system = next(p.stage for p in plan.stages if p.stage.name == "system")
    assert tuple(system.needs) == ("rootfs.tar",)


def test_elements_come_between_the_tree_and_the_system(tmp_path: Path) -> None:
    plan = debootstrap.plan(
        BuildContext(spec_of(tmp_path, "install.elements=[growroot]"), tmp_path / "out")
    )
    found = names(plan)
    ours = [n for n in found if n.startswith("elements")]
    assert ours == [
        *("elements-root", "elements-extra-data", "elements-pre-install", "elements-install"),
        *("elements-post-install", "elements-finalise", "elements-cleanup"),
    ]
    assert found.index("rootfs") < found.index(ours[0]) < found.index("system")
    system = next(p.stage for p in plan.stages if p.stage.name == "system")
    assert tuple(system.needs) == ("elements-cleanup.tar",)
    target = next(t for t in plan.targets if t.role == "package-list")
    assert target.artefact == "elements-packages.json"


def test_an_element_that_makes_the_root_takes_the_place_of_the_tree_stage(tmp_path: Path) -> None:
    overrides = ["install.elements=[debian-minimal]", "install.element_network=true"]
    plan = debootstrap.plan(BuildContext(spec_of(tmp_path, *overrides), tmp_path / "out"))
    assert "rootfs" not in names(plan)
    assert names(plan)[0] == "elements-root"


def test_changing_a_script_changes_its_phase_and_what_follows_alone(tmp_path: Path) -> None:
    path = make_element(
        tmp_path / "mine",
        "e",
        {"install.d/10-x": "#!/bin/sh\n", "finalise.d/10-x": "#!/bin/sh\n"},
    )
    file = spec_of(tmp_path, "install.elements=[e]", "install.element_path=[mine]")
    before = debootstrap.plan(BuildContext(file, tmp_path / "out"))
    (path / "finalise.d/10-x").write_text("#!/bin/sh\n# other\n")
    after = debootstrap.plan(BuildContext(file, tmp_path / "out"))
    same = {n for n in names(before) if key(before, n) == key(after, n)}
    assert {"rootfs", "elements-install", "elements-post-install"} <= same
    assert not same & {"elements-finalise", "elements-cleanup", "system", "image"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["install.elements=[vm]"], "disk"),
        (["install.elements=[bootloader]"], "boot loader"),
        (["install.elements=[debian-minimal]"], "no network"),
        (["install.elements=[no-such-thing]"], "not found"),
        (["install.elements=[growroot]", "install.element_path=[nowhere]"], "nowhere"),
        (["install.elements=[growroot]", "install.element_environment={PATH: /x}"], "PATH"),
        (["install.elements=[growroot]", "install.element_environment={'a b': x}"], "a b"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_place(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        debootstrap.plan(BuildContext(spec_of(tmp_path, *overrides), tmp_path / "out"))
    assert words in str(caught.value)
    assert str(caught.value.where).startswith("--set install.")


def test_disk_image_create_takes_imagekits_tree_where_no_element_brings_one(
    tmp_path: Path,
) -> None:
    def whole(elements: str) -> Plan:
        value = f"install={{method: diskimage-builder, elements: [{elements}]}}"
        return diskimage_builder.plan(BuildContext(spec_of(tmp_path, value), tmp_path / "out"))

    theirs = whole("debian-minimal, xen-guest")
    assert "rootfs" not in names(theirs)
    ours = whole("xen-guest")
    found = names(ours)
    assert found.index("rootfs") < found.index("disk-image-create") < found.index("system")
    create = next(p.stage for p in ours.stages if p.stage.name == "disk-image-create")
    assert tuple(create.needs) == ("rootfs.tar",)
    assert key(ours, "disk-image-create") != key(theirs, "disk-image-create")


def test_the_hooks_are_those_that_disk_image_create_makes(tmp_path: Path) -> None:
    known = find_all()
    elements = [known[n] for n in ("dpkg", "growroot", "package-installs", "pkg-map")]
    ours = tmp_path / "ours"
    ours.mkdir()
    hooks.generate(elements, ours)
    theirs = tmp_path / "theirs"
    array = " ".join(f"[{e.name}]={e.path}" for e in elements)
    functions = Path(library_path("lib")) / "common-functions"
    subprocess.run(
        [
            "bash",
            "-c",
            'source "$1"; get_image_element_array() { echo "$2"; }; TMP_HOOKS_PATH=$3; '
            'eval "get_image_element_array() { echo \\"$2\\"; }"; generate_hooks',
            "sh",
            str(functions),
            array,
            str(theirs),
        ],
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "_LIB": str(functions.parent)},
    )

    def listing(root: Path) -> set[tuple[str, bool]]:
        return {
            (str(p.relative_to(root)), bool(p.stat().st_mode & 0o100))
            for p in root.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }

    extra = {("dib-run-parts", True), (hooks.TRACE, False), (f"{hooks.PROGRAMS}/sudo", True)}
    assert listing(ours) - extra == listing(theirs)


def test_two_scripts_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [make_element(tmp_path, name, {"install.d/10-x": "#!/bin/sh\n"}) for name in ("a", "b")]
    (tmp_path / "hooks").mkdir()
    with pytest.raises(SpecError, match=r"install\.d/10-x"):
        hooks.generate([load(p, "spec") for p in paths], tmp_path / "hooks")


def test_a_difference_of_hooks_comes_back_whole(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        (root / "install.d").mkdir(parents=True)
        (root / "install.d/10-x").write_text("as before\n")
    before = hooks.snapshot(one)
    (one / "install.d/20-new").write_text("new\n")
    (one / "install.d/20-new").chmod(0o755)
    (one / "install.d/30-link").symlink_to("20-new")
    (one / "made").mkdir()
    (one / "made/file").write_text("deep\n")
    hooks.save_difference(one, before, hooks.no_difference(), tmp_path / "d.tar")
    (two / "install.d/10-x").write_text("changed since\n")
    hooks.apply_difference(two, (tmp_path / "d.tar").read_bytes())
    assert (two / "install.d/10-x").read_text() == "changed since\n"
    assert (two / "install.d/30-link").read_text() == "new\n"
    assert (two / "install.d/20-new").stat().st_mode & 0o777 == 0o755
    assert (two / "made/file").read_text() == "deep\n"


def test_a_stored_difference_cannot_lead_out_of_the_hooks(tmp_path: Path) -> None:
    import io
    import tarfile

    from imagekit.errors import ImageError

    (tmp_path / "hooks").mkdir()
    for evil in ("../out", "link/out"):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            tar.addfile(link)
            tar.addfile(tarfile.TarInfo(evil))
        with pytest.raises(ImageError):
            hooks.apply_difference(tmp_path / "hooks", data.getvalue())
        assert not (tmp_path / "out").exists()


def test_the_element_array_is_one_that_bash_can_declare(tmp_path: Path) -> None:
    path = make_element(tmp_path, "my-element", {})
    variables = environment.base_environment(
        [load(path, "spec")],
        named=["my-element"],
        image="g",
        distribution="debian",
        suite="bookworm",
        arch="amd64",
        filesystem="ext4",
        extra={"DIB_X": "with 'quotes' and $dollars"},
    )
    text = (
        "eval declare -A a=($(get_image_element_array)); echo ${a[my-element]}; "
        'unset DIB_X; eval "$DIB_ENV"; echo "$DIB_X"; echo "$IMAGE_ELEMENT_YAML"'
    )
    done = subprocess.run(
        ["bash", "-c", text], env={**variables, "PATH": "/bin"}, capture_output=True, text=True
    )
    where = f"{environment.ELEMENTS}/my-element"
    assert done.stdout.splitlines()[:3] == [
        where,
        "with 'quotes' and $dollars",
        f"my-element: {where}",
    ]
    assert variables["DIB_PYTHON_EXEC"] == sys.executable


LOG = """\
dib-run-parts Running /tmp/in_target.d/install.d/10-fine
dib-run-parts 10-fine completed
dib-run-parts Running /tmp/in_target.d/install.d/50-bad
{}
imagekit-trace /tmp/in_target.d/dib-run-parts:136: $target_dir/$target
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("imagekit-trace /tmp/in_target.d/install.d/50-bad:7: false", 7),
        ("/tmp/in_target.d/install.d/50-bad: line 9: X: unbound variable", 9),
        ("/tmp/in_target.d/install.d/50-bad: 4: nope: not found", 4),
        ('  File "/tmp/in_target.d/install.d/50-bad", line 12, in main', 12),
        ("nothing that tells", 0),
    ],
)
def test_the_script_and_its_line_are_read_from_the_log(
    tmp_path: Path, said: str, line: int
) -> None:
    path = make_element(tmp_path, "bad", {"install.d/50-bad": "#!/bin/bash\n"})
    culprit = find_culprit(LOG.format(said), [load(path, "spec")], "install.d")
    assert culprit is not None
    assert (culprit.element, culprit.script, culprit.line) == ("bad", "50-bad", line)


def test_a_log_in_which_nothing_ran_blames_nobody() -> None:
    assert find_culprit("the sandbox cannot be made\n", [], "install.d") is None
