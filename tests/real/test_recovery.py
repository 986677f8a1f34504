"""A build in one file, and back: without a network, without a cache, the same byte by byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.builds import Run
from oracles.loops import loop_device
from oracles.proofs import report_of

pytestmark = pytest.mark.real
ROUNDS = int(os.environ.get("IMAGEKIT_KILL_ROUNDS", "2"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("recovery")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def spec(place: Path) -> Path:
    (place / "motd").write_text("from a bundle\n")
    (place / "secret").write_text("$y$j9T$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyzABCDEFG\n")
    path = place / "dr.yaml"
    path.write_text(
        "name: dr\nmemory: 512\nos: {distribution: debian, suite: bookworm}\n"
        "install: {method: debootstrap}\n"
        "disk: {size: 1536MiB, formats: [raw, vhd]}\n"
        "identity: {root_password: {file: ./secret}}\n"
        "files: [{target: /etc/motd, source: ./motd}]\n"
    )
    return path


@pytest.fixture(scope="module")
def original(spec: Path, place: Path, imagekit: Run) -> Path:
    imagekit("build", spec, "-o", place / "out")
    return place / "out"


@pytest.fixture(scope="module")
def bundle(original: Path, spec: Path, place: Path, imagekit: Run) -> Path:
    """A signed bundle, on its own in a directory with the secret it needs."""
    key = place / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    target = place / "host/dr.bundle"
    target.parent.mkdir()
    imagekit("bundle", original, "--spec", spec, "-o", target, "--image", "--sign", key)
    return target


def digests(build: Path) -> dict[str, str]:
    manifest = json.loads((build / "manifest.json").read_text())
    return {a["path"]: a["sha256"] for a in manifest["artefacts"] if a["role"] == "disk"}


def offline(*args: str | Path, cache: Path) -> subprocess.Popen[str]:
    """The program in a network namespace without interfaces but an unconfigured loopback."""
    argv = ["unshare", "--net", sys.executable, "-m", "imagekit", *map(str, args)]
    env = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    return subprocess.Popen(
        argv,
        env={**env, "IMAGEKIT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_bundle_holds_no_secret_and_says_which_it_needs(
    bundle: Path, sealed: Path, original: Path, spec: Path, place: Path, cache: Path, imagekit: Run
) -> None:
    plain = place / "plain.bundle"
    process = offline("bundle", original, "--spec", spec, "-o", plain, cache=cache)
    said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert (place / "secret").read_bytes().strip() not in plain.read_bytes()
    assert b"from a bundle" in plain.read_bytes()
    plain.unlink()
    trust = ("--trust", place / "key.pub")
    lines = imagekit("reinstall", bundle, "-o", place / "dry", "--dry-run").stdout
    assert "STOP: nobody has said whose bundles are taken" in lines
    assert "STOP: the secret file:./secret is missing" in lines
    assert not (place / "dry").exists()
    lines = imagekit("reinstall", sealed, "-o", place / "dry", "--dry-run", *trust).stdout
    assert "STOP" not in lines
    done = imagekit("reinstall", bundle, "-o", place / "dry", check=False)
    assert (done.returncode, "--insecure-unsigned" in done.stderr) == (7, True)
    done = imagekit("reinstall", bundle, "-o", place / "dry", *trust, check=False)
    assert (done.returncode, "needs file:./secret" in done.stderr) == (3, True)


def test_a_flipped_byte_anywhere_and_a_strangers_key_are_found(
    bundle: Path, place: Path, imagekit: Run
) -> None:
    public = place / "key.pub"
    assert "signature good" in imagekit("bundle", "verify", bundle, "--trust", public).stdout
    other = place / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    done = imagekit("bundle", "verify", bundle, "--trust", f"{other}.pub", check=False)
    assert done.returncode == 7
    size = bundle.stat().st_size
    for position in (100, 700, size // 3, size // 2, size - 600, size - 1):
        with bundle.open("r+b") as stream:
            stream.seek(position)
            byte = stream.read(1)[0]
            stream.seek(position)
            stream.write(bytes([byte ^ 0x10]))
        done = imagekit("bundle", "verify", bundle, check=False)
        with bundle.open("r+b") as stream:
            stream.seek(position)
            stream.write(bytes([byte]))
        assert done.returncode == 7, (position, done.stdout)
    imagekit("bundle", "verify", bundle)


@pytest.fixture(scope="module")
def sealed(original: Path, spec: Path, place: Path, imagekit: Run) -> Path:
    """A signed bundle with its secrets in it, encrypted, on its own in a directory."""
    (place / "passphrase").write_text("correct horse battery staple\n")
    target = place / "elsewhere/dr.bundle"
    target.parent.mkdir()
    args = ("--sign", place / "key", "--passphrase-file", place / "passphrase")
    imagekit("bundle", original, "--spec", spec, "-o", target, *args)
    return target


@pytest.fixture(scope="module")
def again(bundle: Path, sealed: Path, place: Path) -> Iterator[Path]:
    """The build of the sealed bundle, made without network and cache, killed on the way."""
    cache, out = place / "fresh-cache", place / "again"
    args: list[str | Path] = ["reinstall", sealed, "-o", out, "--trust", place / "key.pub"]
    args += ["--passphrase-file", place / "passphrase"]
    for round_ in range(ROUNDS):
        process = offline(*args, cache=cache)
        time.sleep(2 + 7 * round_ % 41)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (out / "reinstall-report.json").exists():
            # What earlier rounds had done was not done again, so that this one was soon over.
            assert json.loads((out / "reinstall-report.json").read_text())["identical"] is True
            shutil.rmtree(out)
            shutil.rmtree(cache)
        elif (out / "manifest.json").exists():
            subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out, check=True)
    process = offline(*args, cache=cache)
    text = process.communicate(timeout=900)
    assert process.returncode == 0, text
    assert list((cache / "store/tmp").iterdir()) == []
    shutil.rmtree(cache)
    yield out
    shutil.rmtree(out)


@pytest.mark.kills
def test_reinstalling_offline_after_kills_gives_the_same_bytes(again: Path, original: Path) -> None:
    report = json.loads((again / "reinstall-report.json").read_text())
    assert report["identical"] is True
    assert report["disks"] == digests(original)
    for path in digests(original):
        subprocess.run(["cmp", original / path, again / path], check=True)
    check = ["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"]
    subprocess.run(check, cwd=again, check=True)


@pytest.mark.xen
@pytest.mark.slow
@pytest.mark.long
def test_what_was_reinstalled_boots_as_pv_under_xen_with_the_same_mac(
    again: Path, original: Path, imagekit: Run
) -> None:
    imagekit("prove", again, "--mode", "pv", "--boot", "pygrub", timeout=1500)
    (found,) = report_of(again)["boots"]
    assert found["ok"], found["failure"]
    assert (found["guest_type"], found["disks"]) == ("PV", ["xvda"])
    (nic,) = json.loads((original / "facts.json").read_text())["nics"]
    assert found["nics"] == [nic["mac"]]
    assert found["dhcp"][nic["mac"]].startswith("198.18.0.")


def test_a_build_directory_is_signed_and_a_later_build_signs_anew(
    original: Path, spec: Path, place: Path, bundle: Path, imagekit: Run
) -> None:
    build = ("build", spec, "-o", original)
    imagekit(*build, "--sign", place / "key")
    signers = place / "signers"
    signers.write_text(f"me {(place / 'key.pub').read_text()}")
    argv: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        signers,
        "-I",
        "me",
        "-n",
        "imagekit-build",
    ]
    with (original / "SHA256SUMS").open("rb") as sums:
        subprocess.run([*argv, "-s", original / "SHA256SUMS.sig"], stdin=sums, check=True)
    imagekit(*build)
    assert (original / "SHA256SUMS.sig").exists()
    (original / "SHA256SUMS").write_text("")
    done = imagekit(*build, check=False)
    assert (done.returncode, "was changed" in done.stderr) == (13, True)
    imagekit(*build, "--force")
    assert not (original / "SHA256SUMS.sig").exists()
    assert (original / "SHA256SUMS").read_text().count("\n") > 8


@pytest.fixture
def loop(place: Path) -> Iterator[Path]:
    with loop_device(place / "device.img", 2 << 30) as device:
        yield device


def test_the_finished_disk_goes_to_a_device_and_the_config_names_it(
    bundle: Path, original: Path, place: Path, loop: Path, imagekit: Run
) -> None:
    out = place / "unpacked"
    args = ["reinstall", bundle, "-o", out, "--unpack", "--device", loop]
    args += ["--trust", place / "key.pub"]
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", loop], check=True)
    refused = imagekit(*args, check=False)
    assert refused.returncode == 13
    assert subprocess.run(["/sbin/e2fsck", "-fn", loop], capture_output=True).returncode == 0
    imagekit(*args, "--force", loop)
    raw = original / "dr.raw"
    subprocess.run(["cmp", "-n", str(raw.stat().st_size), raw, loop], check=True)
    report = json.loads((out / "reinstall-report.json").read_text())
    assert (report["identical"], report["device"]) == (True, str(loop))
    assert str(loop) in Path(report["configs"][0]).read_text()
    for name in ("dr-vmlinuz", "dr-initrd.img"):
        assert (out / name).read_bytes() == (original / name).read_bytes()
    again = imagekit(*args, check=False)
    assert (again.returncode, "holds data" in again.stderr) == (13, True)
    # Killed while it writes the device: that device, and no other, may be written on.
    command = [sys.executable, "-m", "imagekit", *map(str, args), "--force", str(loop)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / ".imagekit-reinstall.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    imagekit(*args)
    subprocess.run(["cmp", "-n", str(raw.stat().st_size), raw, loop], check=True)
    assert not (out / ".imagekit-reinstall.json").exists()
    shutil.rmtree(out)


LVM = {
    "vgs": 'echo "  vg0:1000000000000:4194304"',
    "lvs": "cat {tag} 2>/dev/null || exit 5",
    "lvcreate": 'while [ $# -gt 1 ]; do [ "$1" = --addtag ] && echo "  $2" > {tag}; shift; done\n'
    "mkdir -p /dev/imagekit-test && ln -s {loop} /dev/imagekit-test/dr-disk",
}


def test_a_logical_volume_is_made_for_it_once(
    bundle: Path, original: Path, place: Path, loop: Path, imagekit: Run
) -> None:
    """LVM itself needs device-mapper: its programs are played here, by a loop device."""
    programs, tag, out = place / "lvm", place / "tag", place / "volume"
    programs.mkdir()
    for name, text in LVM.items():
        body = text.replace("{tag}", str(tag)).replace("{loop}", str(loop))
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", loop], check=True)
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    args = ["reinstall", bundle, "-o", out, "--unpack", "--vg", "imagekit-test"]
    args += ["--trust", place / "key.pub"]
    try:
        lines = imagekit(*args, "--dry-run", env=env).stdout
        assert "make the logical volume imagekit-test/dr-disk" in lines and not out.exists()
        imagekit(*args, env=env)
        raw = original / "dr.raw"
        subprocess.run(["cmp", "-n", str(raw.stat().st_size), raw, loop], check=True)
        report = json.loads((out / "reinstall-report.json").read_text())
        assert report["device"] == "/dev/imagekit-test/dr-disk"
        assert "/dev/imagekit-test/dr-disk" in Path(report["configs"][0]).read_text()
        # It is a guest's disk now.
        refused = imagekit(*args, env=env, check=False)
        assert (refused.returncode, "is a logical volume already" in refused.stderr) == (13, True)
    finally:
        shutil.rmtree("/dev/imagekit-test", ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)


def test_the_shell_script_does_it_without_python(
    bundle: Path, original: Path, place: Path, loop: Path, imagekit: Run
) -> None:
    script = place / "reinstall.sh"
    made = imagekit("reinstall", bundle, "--emit-script", "--trust", place / "key.pub")
    script.write_text(made.stdout)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", loop], check=True)
    shell = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def sh(*args: str | Path) -> subprocess.CompletedProcess[str]:
        argv = ["sh", script, bundle, *args]
        return subprocess.run(argv, capture_output=True, text=True, env=shell)

    refused = sh(loop)
    assert (refused.returncode, "holds data" in refused.stderr) == (1, True)
    wrong = sh(loop, "--force", "/dev/null")
    assert (wrong.returncode, "names /dev/null" in wrong.stderr) == (1, True)
    done = sh(loop, "--force", loop)
    assert done.returncode == 0, done.stderr
    raw = original / "dr.raw"
    subprocess.run(["cmp", "-n", str(raw.stat().st_size), raw, loop], check=True)
