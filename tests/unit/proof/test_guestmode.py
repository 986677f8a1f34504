"""PV, PVH, HVM or nothing: recorded /sys and /proc trees, for the program and its shell twin."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import imagekit.proof
from imagekit.proof.guestmode import KINDS, from_kernel_log, guest_mode

TWIN = Path(imagekit.proof.__file__).parent / "imagekit-mode"

XEN = {"sys/hypervisor/type": "xen\n", "proc/xen/capabilities": ""}
DMI = {"sys/class/dmi/id/sys_vendor": "Xen\n", "sys/class/dmi/id/product_name": "HVM domU\n"}
# Links as sysfs shows them: device to driver.
BOUND = {
    "sys/bus/xen/devices/vbd-51712/driver": "../../bus/xen/drivers/vbd",
    "sys/bus/xen/devices/vif-0/driver": "../../bus/xen/drivers/vif",
}
OTHERS = {"sys/bus/xen/devices/console-0/driver": "../../bus/xen/drivers/xenconsole"}
# /sys/hypervisor/properties/features of a PV, a PVH and an HVM guest under Xen 4.17.
PV_FEATURES = {"sys/hypervisor/properties/features": "00002701\n"}
HVM_FEATURES = {"sys/hypervisor/properties/features": "00002f05\n"}

TREES: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("pv", {**XEN, "sys/hypervisor/guest_type": "PV\n"}, BOUND),
    ("pvh", {**XEN, "sys/hypervisor/guest_type": "PVH\n"}, BOUND),
    ("pvhvm", {**XEN, **DMI, "sys/hypervisor/guest_type": "HVM\n"}, {**BOUND, **OTHERS}),
    ("hvm", {**XEN, **DMI, "sys/hypervisor/guest_type": "HVM\n"}, OTHERS),
    ("hvm", DMI, {}),
    ("pv", {**XEN, **PV_FEATURES}, BOUND),
    ("pvh", {**XEN, **HVM_FEATURES}, BOUND),
    ("pvhvm", {**XEN, **HVM_FEATURES, **DMI}, BOUND),
    ("pvh", {**XEN, "sys/hypervisor/properties/features": "not hex\n"}, {}),
    ("dom0", {**XEN, "proc/xen/capabilities": "control_d\n",
              "sys/hypervisor/guest_type": "PV\n"}, {}),
    ("none", {}, {}),
    ("none", {"sys/class/dmi/id/sys_vendor": "QEMU\n"}, {}),
    ("none", {"sys/hypervisor/type": "other\n"}, {}),
]  # fmt: skip


@pytest.fixture(params=range(len(TREES)), ids=[f"{i}-{t[0]}" for i, t in enumerate(TREES)])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    kind, files, links = TREES[request.param]
    root = tmp_path / "a root"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, target in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    return kind, root


def test_a_recorded_tree_is_told_apart(tree: tuple[str, Path]) -> None:
    kind, root = tree
    found = guest_mode(root)
    assert found.kind == kind
    assert found.evidence


@pytest.mark.parametrize("shell", ["dash", "busybox sh", "bash --posix"])
def test_the_shell_twin_says_the_same_with_the_same_evidence(
    tree: tuple[str, Path], shell: str
) -> None:
    words = shell.split()
    if subprocess.run(["sh", "-c", f"command -v {words[0]}"], capture_output=True).returncode:
        pytest.skip(f"{words[0]} is not on this host")
    _kind, root = tree
    found = guest_mode(root)
    expected = "".join([f"{KINDS[found.kind]}\n", *(f"  {line}\n" for line in found.evidence)])
    done = subprocess.run([*words, str(TWIN), str(root)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("[    0.1] Booting paravirtualized kernel on Xen PV\n", "pv"),
        ("x\n[    0.1] Booting kernel on Xen PVH\ny", "pvh"),
        ("[    0.0] Hypervisor detected: Xen PVH\n", "pvh"),
        ("[    0.0] Hypervisor detected: Xen PV\n[ 5.1] Booting kernel on Xen\n", "pv"),
        ("Booting paravirtualized kernel on Xen HVM\nblkfront: xvda: flush diskcache\n", "pvhvm"),
        ("Booting paravirtualized kernel on Xen HVM\nata1.00: ATA-7: QEMU HARDDISK\n", "hvm"),
        ("Booting paravirtualized kernel on bare hardware\n", "none"),
    ],
)
def test_a_kernels_own_messages_tell_its_mode(log: str, kind: str) -> None:
    found = from_kernel_log(log)
    assert found is not None
    assert found.kind == kind
    assert all(line in log for line in found.evidence)


def test_a_console_without_kernel_messages_tells_nothing() -> None:
    assert from_kernel_log("Debian GNU/Linux 12 web01 hvc0\n\nweb01 login: ") is None
