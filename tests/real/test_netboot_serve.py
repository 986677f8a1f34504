"""publish, serve and flip as a user runs them, with pypxeboot as the client."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from oracles import netns, pxe_site
from oracles.pxe_site import DASHES, INITRD, KERNEL, MAC

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not shutil.which("dnsmasq"), reason="dnsmasq is not installed"),
]
# A shell's background jobs ignore SIGINT, and so would what they start.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from imagekit.cli.netboot import app
app()
"""


@pytest.fixture
def lab() -> Iterator[netns.Lab]:
    with netns.lab() as made:
        yield made


def imagekit(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Instead of pytest's own, which dnsmasq may not enter once it has given up root."""
    with tempfile.TemporaryDirectory(prefix="imagekit-test-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "linux").write_bytes(KERNEL)
    (tmp_path / "initrd.gz").write_bytes(INITRD)
    (tmp_path / "web1.cfg").write_text("d-i secret\n")
    (tmp_path / "web1.yaml").write_text(
        f"name: web1\nmac: {MAC}\nip: 192.0.2.150\n"
        "installer: {kernel: linux, initrd: initrd.gz}\n"
        "args: auto url={answers} done={done}\nanswers: web1.cfg\n"
    )
    made = tmp_path / "root"
    words = ["publish", tmp_path / "web1.yaml", "--root", made, "--http", "http://192.0.2.1:8080"]
    assert "wrote tftp/boot.ipxe" in imagekit(*words)
    assert imagekit(*words) == "nothing to change\n"
    return made


@contextmanager
def serving(lab: netns.Lab, root: Path, *words: str) -> Iterator[Path]:
    log = root.parent / "serve.log"
    argv = [sys.executable, "-c", PROGRAM, "serve", f"--root={root}", "--interface=eth0", *words]
    with log.open("wb") as stream:
        child = subprocess.Popen(lab.exec(lab.server, *argv), stderr=stream)
    try:
        end = time.monotonic() + 15
        while b"serving" not in log.read_bytes() or b"started" not in log.read_bytes():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield log
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(15)


def fetch(lab: netns.Lab, url: str) -> tuple[int, bytes]:
    code = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "try: r = u.urlopen(sys.argv[1], timeout=10); s = r.status; b = r.read()\n"
        "except e.HTTPError as x: s = x.code; b = b''\n"
        "print(s); sys.stdout.flush(); sys.stdout.buffer.write(b)"
    )
    argv = lab.exec(lab.dom0, sys.executable, "-c", code, url)
    out = subprocess.run(argv, capture_output=True, check=True).stdout
    status, _, body = out.partition(b"\n")
    return int(status), body


def boot(lab: netns.Lab, place: Path, *words: str) -> tuple[pxe_site.Run, dict[str, str]]:
    place.mkdir()
    output, _, options = pxe_site.libxl_place(place)
    words = (f"--mac={MAC}", "--interface=xenbr0", "--timeout=30", *words)
    run = pxe_site.pypxeboot(lab, [*options, *words, "/dev/null"])
    return run, pxe_site.simple0(output.read_bytes()) if run.status == 0 else {}


FULL = ("--dhcp=full", "--range=192.0.2.100-192.0.2.200")


def test_install_once_and_boot_locally_from_then_on(
    lab: netns.Lab, root: Path, tmp_path: Path
) -> None:
    with serving(lab, root, *FULL) as log:
        run, items = boot(lab, tmp_path / "first")
        assert run.status == 0, run.err
        assert Path(items["kernel"]).read_bytes() == KERNEL
        assert Path(items["ramdisk"]).read_bytes() == INITRD
        facts = dict(word.split("=", 1) for word in items["args"].split() if "=" in word)
        assert facts["BOOTIF"] == f"01-{DASHES}"
        assert fetch(lab, facts["url"]) == (200, b"d-i secret\n")
        assert fetch(lab, facts["url"])[0] == 410
        assert fetch(lab, facts["done"])[0] == 200
        run, _ = boot(lab, tmp_path / "second")
        assert "booting the guest's own disk" in run.err
        imagekit("flip", "web1", "install", "--root", root)
        run, items = boot(lab, tmp_path / "third")
        assert run.status == 0, run.err
        again = dict(word.split("=", 1) for word in items["args"].split() if "=" in word)
        assert again["url"] != facts["url"]
        assert fetch(lab, again["url"]) == (200, b"d-i secret\n")
        told = log.read_text()
    assert "DHCPACK" in told
    assert "hunter" not in told
    assert facts["url"].split("/")[-2] not in told


def test_kernels_come_over_http_by_ipxe_script(lab: netns.Lab, root: Path, tmp_path: Path) -> None:
    with serving(lab, root, *FULL):
        run, items = boot(lab, tmp_path / "x", "--loader=ipxe", "--config=boot.ipxe")
        assert run.status == 0, run.err
        assert Path(items["kernel"]).read_bytes() == KERNEL
        assert "kernel http://192.0.2.1:8080/images/" in run.err


def test_guest_published_while_serving_is_known_at_once(
    lab: netns.Lab, root: Path, tmp_path: Path
) -> None:
    with serving(lab, root, *FULL):
        other = "00:16:3e:77:00:01"
        run, _ = boot(lab, tmp_path / "unknown", "--timeout=4", "--mac=" + other)
        assert run.status == 6
        (tmp_path / "web2.yaml").write_text(
            f"name: web2\nmac: {other}\ninstaller: {{kernel: linux, initrd: initrd.gz}}\n"
        )
        imagekit(
            "publish", tmp_path / "web2.yaml", "--root", root, "--http", "http://192.0.2.1:8080"
        )
        time.sleep(2.5)
        run, _ = boot(lab, tmp_path / "known", "--mac=" + other)
        assert run.status == 0, run.err


def test_proxy_dhcp_beside_the_sites_own_server(lab: netns.Lab, root: Path, tmp_path: Path) -> None:
    rival = lab.add_rival("192.0.2.9")
    words = [
        "dnsmasq", "-k", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--no-ping",
        f"--dhcp-leasefile={tmp_path / 'plain.leases'}", "--user=root", "--pid-file=",
        "--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0",
    ]  # fmt: skip
    plain = subprocess.Popen(lab.exec(rival, *words), stderr=subprocess.DEVNULL)
    try:
        with serving(lab, root, "--dhcp=proxy"):
            run, items = boot(lab, tmp_path / "x")
            assert run.status == 0, run.err
            assert Path(items["kernel"]).read_bytes() == KERNEL
    finally:
        plain.terminate()
        plain.wait(10)


def test_configs_for_servers_that_exist_already(lab: netns.Lab, root: Path, tmp_path: Path) -> None:
    def printed(what: str) -> str:
        words = ["serve", f"--root={root}", "--interface=eth0", *FULL, f"--print={what}"]
        argv = lab.exec(lab.server, sys.executable, "-c", PROGRAM, *words)
        return subprocess.run(argv, capture_output=True, check=True, text=True).stdout

    config = tmp_path / "dnsmasq.conf"
    config.write_text(printed("dnsmasq"))
    (root / "dnsmasq.hosts").touch()
    subprocess.run(["dnsmasq", "--test", f"--conf-file={config}"], check=True, capture_output=True)
    assert f"# {MAC},192.0.2.150,web1" in config.read_text()
    assert f"hardware ethernet {MAC}" in printed("dhcpd")
    assert f"--root={root} --interface=eth0 --dhcp=full" in printed("unit")


def test_serve_leaves_no_process_and_no_directory(lab: netns.Lab, root: Path) -> None:
    before = set(Path("/tmp").glob("imagekit-serve-*"))
    with serving(lab, root, *FULL):
        mine = [path for path in set(Path("/tmp").glob("imagekit-serve-*")) - before]
        assert len(mine) == 1
    time.sleep(0.2)
    assert not mine[0].exists()
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and str(mine[0]).encode() in path.read_bytes()
    ]
    assert left == []


@pytest.mark.skipif(not shutil.which("grub-script-check"), reason="no grub-script-check")
def test_grub_reads_our_netboot_configs(root: Path) -> None:
    for mode in ("install", "local"):
        imagekit("flip", "web1", mode, "--root", root)
        for path in (root / "tftp/grub").iterdir():
            subprocess.run(["grub-script-check", path], check=True)


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")
def test_a_real_ipxe_rom_chains_to_our_script_and_boots_the_kernel(tmp_path: Path) -> None:
    """QEMU's own PXE ROM (iPXE) reads boot.ipxe over TFTP and starts a kernel made to say hello."""
    if not (
        Path("/usr/share/qemu/pxe-virtio.rom").exists()
        or list(Path("/usr/lib/ipxe").glob("**/*virtio*.rom"))
    ):
        pytest.skip("no PXE ROM (ipxe-qemu)")
    kernels = sorted(Path("/boot").glob("vmlinuz-*"))
    if not kernels:
        pytest.skip("no kernel in /boot (linux-image-amd64)")
    (tmp_path / "g.yaml").write_text(
        f"name: hvm1\nmac: {MAC}\ninstaller: {{kernel: {kernels[-1]}}}\n"
        "args: console=ttyS0 panic=-1 imagekit.hello=1\n"
    )
    root = tmp_path / "root"
    imagekit("publish", tmp_path / "g.yaml", "--root", root)
    argv = [
        "qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot",
        "-boot", "n",
        "-netdev", f"user,id=n,tftp={root / 'tftp'},bootfile=boot.ipxe",
        "-device", f"virtio-net-pci,netdev=n,mac={MAC}",
    ]  # fmt: skip
    done = subprocess.run(
        argv, capture_output=True, timeout=110, check=False, stdin=subprocess.DEVNULL
    )
    said = done.stdout.decode("utf-8", "replace")
    assert f"ipxe/{DASHES}.ipxe" in said
    assert "imagekit.hello=1" in said
    assert "Unable to mount root fs" in said
