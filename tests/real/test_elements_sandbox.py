"""Elements run for real in a small tree: order, environment, failures, hangs, and escapes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles.elements import make_element
from oracles.small_tree import make_small_tree

from imagekit.errors import ToolError
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import ELEMENT
from imagekit.installs.context import BuildContext
from imagekit.installs.elements.catalogue import load
from imagekit.installs.elements.environment import base_environment
from imagekit.installs.elements.planning import ElementPlan
from imagekit.installs.stages import elements as stages
from imagekit.installs.stages.elements import ElementPhase, ExtraDataPhase, InstallPhase
from imagekit.installs.stages.trees import pack
from imagekit.pipeline.events import Events
from imagekit.pipeline.stage import StageRun
from imagekit.pipeline.workspace import Workspace, workspace
from imagekit.spec.load import load_spec

pytestmark = pytest.mark.real
PhaseRun = Callable[..., Path]


@pytest.fixture(scope="module")
def tree_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    pack(make_small_tree(directory / "tree"), directory / "tree.tar", epoch=None)
    return directory / "tree.tar"


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Workspace]:
    with workspace(Events([]), tmp_path / "work") as opened:
        yield opened


@pytest.fixture
def phase(tmp_path: Path, tree_tar: Path, space: Workspace) -> PhaseRun:
    """Runs one phase of the elements below tmp_path/elements; returns the tree afterwards."""
    spec = tmp_path / "g.yaml"
    spec.write_text("name: g\nos: {suite: bookworm}\ninstall: {method: debootstrap}\n")
    count = 0

    def run(
        kind: type[ElementPhase] = InstallPhase,
        *,
        tar: Path | None = None,
        hooks: Path | None = None,
        timeout: int = 60,
        environment: dict[str, str] | None = None,
    ) -> Path:
        nonlocal count
        count += 1
        elements = [load(p, "spec") for p in sorted((tmp_path / "elements").iterdir())]
        variables = base_environment(
            elements,
            named=[e.name for e in elements],
            image="g",
            distribution="debian",
            suite="bookworm",
            arch="amd64",
            filesystem="ext4",
            extra=environment or {},
        )
        plan = ElementPlan(tuple(elements), False, (), variables, False, timeout)
        context = BuildContext(load_spec(spec), spec.parent)
        stage = kind(context, plan, "in.tar", "hooks.tar" if hooks else "")
        output = tmp_path / f"out{count}"
        (output / "logs").mkdir(parents=True)
        inputs = {"in.tar": tar or tree_tar} | ({"hooks.tar": hooks} if hooks else {})
        stage.run(StageRun(space, inputs, output, output / "logs"))
        return output

    (tmp_path / "elements").mkdir()
    return run


def tree_after(output: Path) -> Path:
    (tar,) = [p for p in output.glob("*.tar") if "hooks" not in p.name]
    target = output / "tree"
    target.mkdir()
    subprocess.run(["tar", "-C", target, "-xf", tar], check=True)
    return target


def element(tmp_path: Path, files: dict[str, str], name: str = "e") -> Path:
    return make_element(tmp_path / "elements", name, files)


def test_scripts_of_all_elements_run_in_the_order_of_their_numbers(
    tmp_path: Path, phase: PhaseRun
) -> None:
    say = "#!/bin/bash\necho $(basename $0) >> /order\n"
    element(tmp_path, {"install.d/10-a": say, "install.d/90-d": say}, "one")
    element(tmp_path, {"install.d/9-b": say, "install.d/50-c": say}, "two")
    tree = tree_after(phase())
    assert (tree / "order").read_text().split() == ["9-b", "10-a", "50-c", "90-d"]
    assert list((tree / "tmp").iterdir()) in ([], [tree / "tmp/in_target.d"])


def test_elements_find_variables_functions_and_neighbours(tmp_path: Path, phase: PhaseRun) -> None:
    element(
        tmp_path,
        {
            "environment.d/10-e.bash": "export DIB_E=${DIB_E:-default}-sourced\n",
            "bin/tool": "#!/bin/sh\necho tool\n",
            "install.d/10-x": """
                #!/bin/bash
                set -eu
                eval declare -A found=($(get_image_element_array))
                {
                    echo "$DISTRO_NAME $DIB_RELEASE $ARCH $DIB_INIT_SYSTEM $IMAGE_ELEMENT"
                    echo "$DIB_E ${found[e]}"
                    $(dirname $0)/../bin/tool
                    type -t die
                    echo $PATH
                } > /seen
                """,
        },
    )
    seen = (tree_after(phase(environment={"DIB_E": "given"})) / "seen").read_text().splitlines()
    assert seen[0] == "debian bookworm amd64 systemd e"
    assert seen[1] == "given-sourced /imagekit/elements/e"
    assert seen[2:4] == ["tool", "function"]
    assert "/usr/local/sbin" in seen[4]


def test_what_extra_data_adds_to_the_hooks_is_there_in_the_next_phase(
    tmp_path: Path, phase: PhaseRun
) -> None:
    element(
        tmp_path,
        {
            "extra-data.d/10-x": """
                #!/bin/bash
                set -eu
                sudo -E cp /etc/os-release $TMP_MOUNT_PATH/copied
                printf '#!/bin/sh\\necho made > /made\\n' > $TMP_HOOKS_PATH/install.d/20-made
                chmod +x $TMP_HOOKS_PATH/install.d/20-made
                ln -s 20-made $TMP_HOOKS_PATH/install.d/30-link
                """,
            "install.d/10-x": "#!/bin/sh\necho old > /which\n",
        },
    )
    first = phase(ExtraDataPhase)
    (tmp_path / "elements/e/install.d/10-x").write_text("#!/bin/sh\necho new > /which\n")
    second = phase(
        tar=first / "elements-extra-data.tar", hooks=first / "elements-extra-data-hooks.tar"
    )
    tree = tree_after(second)
    assert (tree / "made").read_text() == "made\n"
    assert (tree / "copied").read_text() == Path("/etc/os-release").read_text()
    assert (tree / "which").read_text() == "new\n"


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("#!/bin/bash\nset -e\ntrue\nfalse\necho never\n", 4),
        ("#!/bin/bash\nset -eu\n\necho $NOT_SET\n", 4),
        ("#!/bin/bash\nset -e\nf() {\n  ls /missing\n}\nf\n", 4),
        ("#!/bin/sh\nset -e\nno-such-program\n", 3),
    ],
)
def test_a_failing_script_is_named_with_element_phase_and_line(
    tmp_path: Path, phase: PhaseRun, script: str, line: int
) -> None:
    element(tmp_path, {"install.d/10-good": "#!/bin/sh\ntrue\n"}, "good")
    element(tmp_path, {"install.d/20-bad": script}, "bad")
    with pytest.raises(ToolError) as caught:
        phase()
    assert f"the element bad failed in install.d/20-bad line {line}" in caught.value.what
    log = Path(re.search(r"log is in (\S+)", str(caught.value.hint))[1])  # type: ignore[index]
    assert "20-bad" in log.read_text()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_a_hanging_script_is_stopped_with_all_it_started(tmp_path: Path, phase: PhaseRun) -> None:
    mark = f"86{os.getpid()}"
    element(
        tmp_path,
        {"install.d/10-hang": f"#!/bin/bash\nsetsid sleep {mark} &\nsleep {mark}\n"},
    )
    started = time.monotonic()
    with pytest.raises(ToolError) as caught:
        phase(timeout=3)
    assert time.monotonic() - started < 60
    assert "the element e was stopped in install.d/10-hang" in caught.value.what
    time.sleep(0.5)
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"sleep {mark}" not in processes


def test_a_script_left_running_in_the_background_ends_with_its_phase(
    tmp_path: Path, phase: PhaseRun
) -> None:
    mark = f"87{os.getpid()}"
    element(tmp_path, {"install.d/10-x": f"#!/bin/bash\nsetsid sleep {mark} > /dev/null 2>&1 &\n"})
    phase()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"sleep {mark}" not in processes


ESCAPES = {
    "a device of the host": "mknod /dev/host b 7 0 && dd if=/dev/zero of=/dev/host count=1",
    "a device in the tree": "mknod /host b 7 0",
    "a mount of the host's devices": "mkdir /d && mount -t devtmpfs d /d",
    "a mount": "mkdir -p /d && mount -t tmpfs d /d",
    "a remount of its hooks": "mount -o remount,rw /tmp/in_target.d && touch /tmp/in_target.d/x",
    "a setting of the kernel": "echo x > /proc/sys/kernel/core_pattern",
    "a trigger of the kernel": "echo h > /proc/sysrq-trigger",
    "a device of sysfs": "echo 1 > /sys/block/loop0/queue/nomerges",
    "the hooks": "echo x > /tmp/in_target.d/install.d/10-x",
}


@pytest.mark.parametrize("what", sorted(ESCAPES))
def test_a_way_out_of_the_tree_is_closed(tmp_path: Path, phase: PhaseRun, what: str) -> None:
    element(
        tmp_path,
        {"install.d/10-x": f"#!/bin/bash\nif ({ESCAPES[what]}); then echo out; else echo in; fi\n"},
    )
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    output = phase()
    said = (output / "logs/install.d.log").read_text().splitlines()
    assert "in" in said
    assert "out" not in said
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_a_chroot_within_the_chroot_does_not_lead_to_the_host(
    tmp_path: Path, phase: PhaseRun
) -> None:
    # The known way out of chroot(2): keep the working directory outside a second chroot.
    element(
        tmp_path,
        {
            "install.d/10-x": """
                #!/bin/bash
                mkdir -p /a/b
                cp -a /usr /bin /sbin /lib /lib64 /a/b/ 2> /dev/null
                cd /
                chroot /a/b /bin/bash -c 'cd ../../../../..; ls -d work etc/shadow home srv mnt'
                ls -d /../../../../etc/shadow /proc/1/root/etc/shadow
                true
                """
        },
    )
    log = (phase() / "logs/install.d.log").read_text()
    assert not re.search(r"^(etc/shadow|\S*/etc/shadow|home|srv|mnt)$", log, re.M)


@pytest.mark.parametrize("target", ["/etc", "/root", "/dev", "/imagekit-escape-target"])
def test_a_link_in_the_tree_does_not_lead_scripts_beside_it_to_the_host(
    tmp_path: Path, phase: PhaseRun, target: str
) -> None:
    first = element(tmp_path, {"install.d/10-x": f"#!/bin/sh\nln -s {target} /link\n"})
    linked = phase() / "elements-install.tar"
    (first / "install.d/10-x").unlink()
    element(
        tmp_path,
        {
            "extra-data.d/10-x": """
                #!/bin/bash
                sudo cp /etc/hosts $TMP_MOUNT_PATH/link/imagekit-escape
                sudo touch $TMP_MOUNT_PATH/../../../../../etc/imagekit-escape
                true
                """
        },
    )
    phase(ExtraDataPhase, tar=linked)
    for directory in (Path(target), Path("/etc"), Path("/")):
        assert not (directory / "imagekit-escape").exists()


def test_scripts_beside_the_tree_see_nothing_secret_of_the_host(
    tmp_path: Path, phase: PhaseRun
) -> None:
    element(
        tmp_path,
        {
            "extra-data.d/10-x": """
                #!/bin/bash
                for path in /home /etc/ssh /etc/shadow /etc/apt/auth.conf.d /boot /srv; do
                    test -e $path && echo "seen"
                done
                echo "files: $(ls -A /root | wc -l)"
                touch /usr/imagekit-escape || echo read-only
                true
                """
        },
    )
    log = (phase(ExtraDataPhase) / "logs/extra-data.d.log").read_text()
    own = int(sys.prefix.startswith("/root/"))  # imagekit's own programs are always there
    assert f"files: {own}" in log
    assert "read-only" in log
    assert "seen" not in log.splitlines()
    assert not Path("/usr/imagekit-escape").exists()


@pytest.mark.parametrize("name", ["proc", "sys", "dev", "run", "tmp"])
def test_a_tree_with_a_link_where_mounts_go_is_refused(
    tmp_path: Path, phase: PhaseRun, tree_tar: Path, name: str
) -> None:
    tree = tmp_path / "evil"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xf", tree_tar], check=True)
    if (tree / name).is_dir():
        (tree / name).rmdir()
    (tree / name).symlink_to("/mnt")
    subprocess.run(["tar", "-C", tree, "-cf", tmp_path / "evil.tar", "."], check=True)
    element(tmp_path, {"install.d/10-x": "#!/bin/sh\ntrue\n"})
    with pytest.raises(ToolError, match="failed") as caught:
        phase(tar=tmp_path / "evil.tar")
    assert "is not a directory" in caught.value.output


def test_without_asking_there_is_no_network(tmp_path: Path, phase: PhaseRun) -> None:
    element(tmp_path, {"install.d/10-x": "#!/bin/bash\ncat /proc/net/dev > /net\n"})
    lines = (tree_after(phase()) / "net").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


def test_keys_follow_the_scripts_of_the_phase_and_the_files_they_share(tmp_path: Path) -> None:
    path = make_element(
        tmp_path / "elements",
        "e",
        {
            "install.d/10-x": "#!/bin/sh\n",
            "finalise.d/10-y": "#!/bin/sh\n",
            "static/file": "1\n",
        },
    )
    spec = tmp_path / "g.yaml"
    spec.write_text("name: g\nos: {suite: bookworm}\ninstall: {method: debootstrap}\n")
    file = load_spec(spec)

    def keys() -> dict[str, object]:
        plan = ElementPlan(
            (load(path, "spec"),),
            False,
            (),
            {"DIB_PYTHON_EXEC": "x", "_LIB": "y"},
            False,
            60,
        )
        context = BuildContext(file, file.base)
        return {s.phase: s.key() for s in stages.element_stages(context, plan, "rootfs.tar")}

    first = keys()
    (path / "finalise.d/10-y").write_text("#!/bin/sh\n# changed\n")
    second = keys()
    assert {p for p in first if first[p] != second[p]} == {"finalise.d"}
    (path / "README.rst").write_text("other words\n")
    assert keys() == second
    (path / "static/file").write_text("2\n")
    third = keys()
    assert {p for p in second if second[p] != third[p]} == set(second)


def test_imagekit_itself_may_lie_below_var_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as prefix:
        Path(prefix, "kept").touch()
        monkeypatch.setattr(sys, "prefix", prefix)
        (tmp_path / "root").mkdir()
        box = Sandbox(tmp_path / "root", ELEMENT, host_programs=True)
        script = f"cat {prefix}/kept; touch /var/tmp/x && echo written"
        done = box.run(["sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, timeout=60)
    assert done.text == "written\n"
