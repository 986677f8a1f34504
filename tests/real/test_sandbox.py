"""Hostile programs in the sandbox of each purpose: the host stays as it was.

Over 400 lines, because all of it needs the same sandboxes, one of each purpose.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracles.ordinary_user import as_ordinary_user
from oracles.small_tree import make_small_tree
from support import hostile

from imagekit.errors import ToolError
from imagekit.host import userns
from imagekit.host.run import Completed
from imagekit.host.sandbox import bounds, ids, profiles
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import MIB, Profile

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        userns.unavailable() is not None, reason="missing: user namespaces on this host"
    ),
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, for the host's own ids")
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
CONFINED = {
    name: value
    for name, value in vars(profiles).items()
    if isinstance(value, Profile) and value.user_namespace
}
Run = Callable[..., Completed]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_tree(tmp_path_factory.mktemp("sandbox") / "tree")


@pytest.fixture
def beside(tmp_path: Path) -> Run:
    """Runs a program of the host beside a writable directory, at /imagekit/w."""
    (tmp_path / "root").mkdir()
    (tmp_path / "w").mkdir()

    def run(argv: list[str], profile: Profile = profiles.ELEMENT, **options: object) -> Completed:
        shown = {tmp_path / "w": "/imagekit/w"}
        box = Sandbox(tmp_path / "root", profile, host_programs=True, writable=shown)
        return box.run(argv, env=ENV, timeout=120, **options)  # type: ignore[arg-type]

    return run


@pytest.fixture(autouse=True)
def host_as_before(tmp_path: Path) -> Iterator[None]:
    def looks() -> object:
        kernel, mounts = Path("/proc/sys/kernel"), Path("/proc/self/mountinfo")
        return (
            [x for x in mounts.read_text().splitlines() if str(tmp_path.parent) in x],
            (kernel / "core_pattern").read_text(),
            (kernel / "hostname").read_text(),
            os.stat("/dev/null").st_rdev,  # noqa: PTH116 - the number alone
            [sorted(p.glob(f"{bounds.NAME}-{os.getpid()}-*")) for p in bounds.parents()],
        )

    before = looks()
    yield
    assert looks() == before


@pytest.mark.parametrize("name", CONFINED)
def test_nothing_that_a_hostile_program_tries_works(name: str, beside: Run) -> None:
    profile = CONFINED[name]
    done = beside(hostile.program("/imagekit/w"), profile)
    tries, seen = hostile.told(done.stdout)
    worked = {name for name, number in tries.items() if number == 0}
    if profile.mounting:
        assert worked >= {"mount", "unshare NEWNS"}
        worked -= hostile.MOUNTING
    assert worked == set()
    assert {tries[f"unshare {x}"] for x in ("NEWUSER", "NEWUSER and NEWNS")} == {errno.EPERM}
    assert tries["clone NEWUSER"] == errno.EPERM
    assert tries["clone3"] == tries["future call"] == tries["open_tree_attr"] == errno.ENOSYS
    assert seen["firmware"] == seen["debug"] == []
    assert seen["root of 1"] == seen["own root"]
    assert not {"home", "srv", "boot"} & set(map(str, seen["own root"]))  # type: ignore[call-overload]
    for hidden in ("kcore", "keys", "timer_list", "kallsyms", "iomem"):
        assert seen[hidden] == "", hidden
    assert seen["no_new_privs"] == "1"
    assert seen["seccomp"] == "2"
    kept = f"{sum(1 << n for n in profile.kept):016x}"
    assert seen["capabilities"] == [kept, kept, kept, "0" * 16, "0" * 16]
    assert seen["interfaces"] == ["lo"]
    assert seen["unix sockets"] == 0
    own, ours = seen["namespaces"], hostile.namespaces()
    assert [x for x in ours if ours[x] == own[x]] == []  # type: ignore[index]


@as_root
@pytest.mark.parametrize("name", CONFINED)
def test_root_of_a_sandbox_is_not_root_of_the_host(name: str, beside: Run) -> None:
    done = beside(["cat", "/proc/self/uid_map"], CONFINED[name])
    assert done.text.split() == ["0", str(ids.first_id()), "65536"]


@as_root
def test_owners_modes_and_capabilities_of_files_are_on_disk_as_in_the_sandbox(
    tmp_path: Path, beside: Run
) -> None:
    # linux/capability.h: VFS_CAP_REVISION_2 and the effective bit, CAP_NET_RAW permitted.
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    script = f"""
import os
os.umask(0)
os.chdir("/imagekit/w")
for uid, gid in ((0, 0), (0, 42), (1, 1), (1000, 1000), (65534, 65534), (65535, 65535)):
    name = f"{{uid}}-{{gid}}"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o640))
    os.chown(name, uid, gid)
    os.mkdir(name + ".d")
    os.lchown(name + ".d", uid, gid)
    os.symlink("x", name + ".l")
    os.lchown(name + ".l", uid, gid)
os.chmod("1-1", 0o6755)
os.chmod("0-42", 0o2755)
os.mkfifo("fifo")
os.link("0-0", "linked")
os.setxattr("1000-1000", "security.capability", bytes.fromhex("{capability.hex()}"))
os.setxattr("0-0", "user.x", b"1")
assert os.getxattr("1000-1000", "security.capability").hex() == "{capability.hex()}"
print(os.stat("before").st_uid, os.stat("before").st_gid)
"""
    kept = tmp_path / "w" / "before"
    kept.touch()
    os.chown(kept, 7, 8)
    assert beside(["python3", "-I", "-c", script]).text == "7 8\n"
    for uid, gid in ((0, 0), (0, 42), (1, 1), (1000, 1000), (65534, 65534), (65535, 65535)):
        for kind in ("", ".d", ".l"):
            status = (tmp_path / "w" / f"{uid}-{gid}{kind}").lstat()
            assert (status.st_uid, status.st_gid) == (uid, gid)
    assert stat.S_IMODE((tmp_path / "w/1-1").stat().st_mode) == 0o6755
    assert stat.S_IMODE((tmp_path / "w/0-42").stat().st_mode) == 0o2755
    assert (tmp_path / "w/linked").stat().st_nlink == 2
    assert os.getxattr(tmp_path / "w/1000-1000", "security.capability") == capability
    assert os.getxattr(tmp_path / "w/0-0", "user.x") == b"1"
    assert (kept.stat().st_uid, kept.stat().st_gid) == (7, 8)


def small(**bound: int) -> Profile:
    return dataclasses.replace(profiles.SCRIPT, **bound)  # type: ignore[arg-type]


BOMBS = {
    "memory": (
        small(memory=96 * MIB),
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "96 MiB of memory",
    ),
    "memory of many": (
        small(memory=96 * MIB),
        "import os, time\n"
        "for n in range(40): os.fork() or (bytearray(8 << 20), time.sleep(60))\n"
        "time.sleep(60)",
        "96 MiB of memory",
    ),
    "a file in memory": (
        small(memory=96 * MIB),
        "f = open('/run/x', 'wb')\n"
        "g = open('/dev/shm/x', 'wb')\n"
        "x = bytearray(60 << 20)\n"
        "for n in range(20): f.write(x[:1 << 20]); g.write(x[:1 << 20])",
        "96 MiB of memory",
    ),
    "forks": (
        small(processes=50),
        "import os, time\nfor n in range(99): os.fork() or time.sleep(60)",
        "50 processes",
    ),
    "threads": (
        small(processes=50),
        "import threading, time\n"
        "for n in range(99): threading.Thread(target=time.sleep, args=(60,)).start()",
        "50 processes",
    ),
    "a fork bomb": (
        small(processes=50),
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "50 processes",
    ),
    "processor time": (small(cpu_seconds=1), "while True: pass", "1 s of processor time"),
    "processor time of a child": (
        small(cpu_seconds=1),
        "import os, sys\nstatus = os.system('while :; do :; done')\n"
        "sys.exit(128 + (status & 127) if status & 127 else status >> 8)",
        "1 s of processor time",
    ),
    "a large file": (
        small(file_size=MIB),
        "import os\nf = os.open('/imagekit/w/x', os.O_CREAT | os.O_WRONLY)\n"
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: os.ftruncate(f, 2 << 20)\nexcept OSError: raise SystemExit(153)",
        "1 MiB for a file",
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bound_ends_the_program_and_the_error_names_both(what: str, beside: Run) -> None:
    profile, script, said = BOMBS[what]
    with pytest.raises(ToolError) as caught:
        beside(["python3", "-I", "-c", script], profile, what="the script 10-bomb")
    assert said in caught.value.what
    assert "the script 10-bomb" in caught.value.what
    assert caught.value.hint is not None


@as_root
def test_a_program_that_fills_the_disk_is_stopped(tmp_path: Path, tree: Path) -> None:
    full = tmp_path / "small"
    full.mkdir()
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {[p for p in sys.path if p]!r}
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "x", {str(full)!r}], check=True)
subprocess.run(["cp", "-a", {str(tree)!r}, {str(full)!r}], check=True)
from imagekit.errors import ToolError
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import SCRIPT
box = Sandbox(Path({str(full / "tree")!r}), SCRIPT)
argv = ["sh", "-c", "while :; do dd if=/dev/zero bs=1M >> /full 2> /dev/null; done"]
try:
    box.run(argv, env={{"PATH": "/bin"}}, timeout=60, what="the script 10-fill")
except ToolError as error:
    print(error.what)
"""
    argv = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", script]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "the script 10-fill was stopped" in said
    assert "stay free where it writes" in said


@as_root
def test_a_file_system_without_mapped_owners_leaves_the_rest_as_it_is(
    tmp_path: Path, tree: Path
) -> None:
    ram = tmp_path / "ram"
    ram.mkdir()
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {[p for p in sys.path if p]!r}
import subprocess
subprocess.run(["mount", "-t", "ramfs", "x", {str(ram)!r}], check=True)
subprocess.run(["cp", "-a", {str(tree)!r}, {str(ram)!r}], check=True)
from imagekit.errors import ToolError
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import ROOT_ELEMENT, SCRIPT
log = Path({str(tmp_path / "log")!r})
tree = Path({str(ram / "tree")!r})
argv = ["sh", "-c", "cat /proc/self/uid_map; touch /made; mount -t tmpfs x /tmp || echo no mount; "
    "(echo x > /proc/sys/kernel/core_pattern) || echo no setting; mknod /d b 7 0 || echo no node"]
print(Sandbox(tree, SCRIPT).run(argv, env={{"PATH": "/bin"}}, timeout=60, log=log).text)
print((tree / "made").stat().st_uid)
try:
    Sandbox(tree, ROOT_ELEMENT).run(["true"], env={{"PATH": "/bin"}}, timeout=60)
except ToolError as error:
    print(error.output)
"""
    argv = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", script]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said.split()[:3] == ["0", "0", "65536"]
    assert said.splitlines()[1:5] == ["no mount", "no setting", "no node", ""]
    assert said.splitlines()[5] == "0"
    assert "cannot be mapped" in said  # what mounts a /proc of its own needs mapped ids
    assert "idmapped mounts" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_can_be_opened_by_its_name(name: str, beside: Run) -> None:
    done = beside(["sh", "-c", f"echo said > /dev/{name}"])
    assert getattr(done, name) == b"said\n"


def test_a_pseudo_terminal_can_be_had(beside: Run) -> None:
    script = "import pty, sys; sys.exit(pty.spawn(['sh', '-c', 'test -t 0 && exit 3']) >> 8)"
    assert beside(["python3", "-I", "-c", script], check=False).returncode == 3


def test_a_program_may_become_another_user_of_the_tree(beside: Run) -> None:
    script = "setpriv --reuid 100 --regid 65534 --clear-groups sh -c 'id -u; id -g'"
    assert beside(["sh", "-ec", script]).text.split() == ["100", "65534"]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 7", 7), ("kill -SEGV 0; exit 1", 1), ("exec nosuch", 127), ("exec /etc", 126)],
)
def test_the_exit_status_is_the_programs(script: str, status: int, beside: Run) -> None:
    assert beside(["sh", "-c", script], check=False).returncode == status


def test_a_program_that_is_not_there_is_named(beside: Run) -> None:
    done = beside(["no-such-program"], check=False)
    assert done.returncode == 127
    assert b"no-such-program" in done.stderr


def test_a_killed_run_leaves_no_process(tmp_path: Path, tree: Path) -> None:
    mark = f"88{os.getpid()}"
    script = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p]!r}
from pathlib import Path
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import SCRIPT
box = Sandbox(Path({str(tree)!r}), SCRIPT)
argv = ["sh", "-c", "setsid sleep {mark} & echo started; sleep {mark}"]
box.run(argv, env={{"PATH": "/bin"}}, timeout=60, on_line=lambda text: print(text, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"started\n"
        child.send_signal(signal.SIGKILL)
    seen = [1]
    while seen:  # the kernel ends them one after the other; a test that hangs fails, too
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        seen = [1 for line in listing.splitlines() if line.endswith(f"sleep {mark}")]
    for parent in bounds.parents():
        with bounds.group(MIB, 1):  # sweeps
            assert [p for p in parent.glob(f"{bounds.NAME}-{child.pid}-*")] == []


def test_a_mount_may_be_below_another(tmp_path: Path) -> None:
    for name in ("root", "outer", "inner"):
        (tmp_path / name).mkdir()
    (tmp_path / "inner/file").write_text("x")
    (tmp_path / "text").write_text("y")
    writable = {tmp_path / "outer": "/imagekit/o", tmp_path / "inner": "/imagekit/o/a/b"}
    box = Sandbox(
        tmp_path / "root",
        profiles.ELEMENT,
        host_programs=True,
        writable=writable,
        read_only={tmp_path / "text": "/imagekit/o/text"},
    )
    script = (
        "cat /imagekit/o/a/b/file /imagekit/o/text; echo z > /imagekit/o/text; touch /imagekit/o/w"
    )
    done = box.run(["sh", "-c", script], env=ENV, timeout=60)
    assert done.stdout == b"xy"
    assert (tmp_path / "text").read_text() == "y"
    assert (tmp_path / "outer/w").exists()
    shutil.rmtree(tmp_path / "outer")


@pytest.mark.parametrize("network", [False, True])
def test_the_settings_of_the_network_are_not_the_sandboxs(network: bool, tree: Path) -> None:
    box = Sandbox(tree, profiles.SCRIPT, network=network)
    script = "(echo 1 > /proc/sys/net/ipv4/ip_forward) 2> /dev/null && echo written; true"
    assert box.run(["sh", "-c", script], env=ENV, timeout=60).text == ""


@as_root
def test_it_is_the_same_for_an_ordinary_user(tmp_path: Path, tree: Path) -> None:
    as_user = as_ordinary_user(tmp_path)
    own = tmp_path / "home/tree"
    subprocess.run(["cp", "-a", tree, own], check=True)
    subprocess.run(["chown", "-R", "4321:4321", own], check=True)
    script = f"""
from pathlib import Path
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import ROOT_ELEMENT, SCRIPT
env = {{"PATH": "/bin"}}
inside = ("touch /made; mount -t tmpfs x /tmp && echo mounted; "
          "grep -E '^(Cap(Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status; "
          "(echo x > /proc/sys/kernel/core_pattern) && echo set; mknod /d b 7 0 && echo node")
for profile in (SCRIPT, ROOT_ELEMENT):
    done = Sandbox(Path({str(own)!r}), profile).run(
        ["sh", "-c", inside + "; true"], env=env, timeout=60)
    print(done.text, end="")
"""
    done = as_user(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    kept = [f"{sum(1 << n for n in p.kept):016x}" for p in (profiles.SCRIPT, profiles.ROOT_ELEMENT)]
    confined = ["NoNewPrivs: 1", "Seccomp: 2"]
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        *(f"CapEff: {kept[0]}", f"CapBnd: {kept[0]}", *confined),
        *("mounted", f"CapEff: {kept[1]}", f"CapBnd: {kept[1]}", *confined),
    ]
    assert (own / "made").stat().st_uid == 4321


@as_root
@pytest.mark.parametrize("allowed", [False, True])
def test_without_user_namespaces_a_build_says_what_to_change(
    tmp_path: Path, tree: Path, allowed: bool
) -> None:
    # In a user namespace of its own the setting is that namespace's alone, not the host's.
    script = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p]!r}
from pathlib import Path
Path("/proc/sys/user/max_user_namespaces").write_text("0")
from imagekit.errors import HostError
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.means import allow_unsandboxed
from imagekit.host.sandbox.profiles import SCRIPT
with allow_unsandboxed(allowed={allowed}) as lost:
    try:
        done = Sandbox(Path({str(tree)!r}), SCRIPT).run(
            ["sh", "-c", "grep Seccomp: /proc/self/status"], env={{"PATH": "/bin"}}, timeout=60)
        print(done.text.split(), lost)
    except HostError as error:
        print(error)
"""
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if allowed:
        assert done.stdout == "['Seccomp:', '2'] ['user namespace']\n"
    else:
        assert "user.max_user_namespaces is 0" in done.stdout
        assert "sysctl -w user.max_user_namespaces=15000" in done.stdout
        assert "--allow-unsandboxed" in done.stdout


def test_only_the_usual_descriptors_are_open(beside: Run) -> None:
    script = "import os; print(sorted(int(x) for x in os.listdir('/proc/self/fd')))"
    # The last is that of the directory itself.
    assert beside(["python3", "-I", "-c", script]).text == "[0, 1, 2, 3, 9]\n"


def test_what_makes_a_root_has_the_devices_that_it_asks_for(beside: Run, tmp_path: Path) -> None:
    script = """
        cd /imagekit/w
        for numbers in '1 3' '1 5' '1 7' '1 8' '1 9' '5 0'; do
            mknod -m 666 "c $numbers" c $numbers
            stat -c '%t %T' "c $numbers"
        done
        echo > 'c 1 3'
        mknod pipe p
        mknod disk b 7 0 || echo refused
        mknod console c 5 1 || echo refused
        mknod 'c 1 3' c 1 3 || echo exists
        . /usr/share/debootstrap/functions
        TARGET=/imagekit/w/target CONTAINER=lxc HOST_OS=linux
        mkdir -p $TARGET/dev
        setup_devices 2> /dev/null
        echo > $TARGET/dev/null
        test -c $TARGET/dev/urandom
        mkdir sys proc dev-of-mine
        mount -o ro -t sysfs none /imagekit/w/sys
        mount -t proc none proc
        touch sys/mine 2> /dev/null || echo refused
        umount -fl sys
        umount -f proc
        mount --bind /dev dev-of-mine
        test -c dev-of-mine/null
        umount -fl --force dev-of-mine
    """
    environment = {**ENV, "PATH": f"/imagekit/bin:{ENV['PATH']}"}
    box = Sandbox(
        tmp_path / "root",
        profiles.ROOT_ELEMENT,
        host_programs=True,
        writable={tmp_path / "w": "/imagekit/w"},
    )
    done = box.run(["sh", "-ec", script], env=environment, timeout=60)
    assert done.text.splitlines() == [
        *("1 3", "1 5", "1 7", "1 8", "1 9", "5 0", "refused", "refused", "exists", "refused")
    ]
    assert all(p.is_file() for p in (tmp_path / "w").glob("c *"))
    assert (tmp_path / "w/pipe").is_fifo()
