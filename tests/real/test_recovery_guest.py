"""A provisioned guest in one file, and back: with its secrets sealed, or without them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.builds import Run
from oracles.loops import loop_device
from oracles.manifests import artefact, write_manifest

from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Nic
from imagekit.recovery.container import read_container, write_container
from imagekit.spec.load import load_spec
from imagekit.spec.lock import Lock, lock_text
from imagekit.spec.manifest import MANIFEST, manifest_text, read_manifest

pytestmark = pytest.mark.real
ROUNDS = int(os.environ.get("IMAGEKIT_KILL_ROUNDS", "2"))
ANYBODY = "--insecure-unsigned"
UUID = "11111111-2222-3333-4444-555555555555"
SIZE = 64 << 20
HASH = "$y$j9T$saltsaltsalt$HashOfARealPasswordThatNobodyMaySee0123456789"
OLD = "$y$j9T$saltsaltsalt$HashThatPasswdReplacedAndLeftInAFreeBlock012"
SHADOW = f"root:{HASH}:19000:0:99999:7:::\ndaemon:*:19000::::::\nanna:!{HASH}:19000::::::\n"
FACTS = BuildFacts(
    name="golden",
    uuid="99999999-2222-3333-4444-555555555555",
    memory_mib=256,
    vcpus=1,
    disks=(DiskFacts({"raw": "golden.raw"}, SIZE),),
    pv=Verdict(True, ("test",)),
    pvh=Verdict(True, ("test",)),
    hvm=Verdict(True, ("test",)),
    pygrub=PygrubView(False, "no bootloader"),
    nics=(Nic("00:16:3e:00:00:01", "xenbr0"),),
    kernel="vmlinuz",
    initrd="initrd.img",
    kernel_bytes=10,
    initrd_bytes=10,
    cmdline=f"root=UUID={UUID} ro",
    boot_filesystem="ext4",
)


class World:
    """A host: golden images, guests, and what imagekit remembers of them."""

    def __init__(self, root: Path, imagekit: Run) -> None:
        self.root = root
        self._imagekit = imagekit
        self.env = {"IMAGEKIT_STATE": str(root / "state"), "GNUPGHOME": str(root / "gnupg")}

    def run(self, *args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._imagekit(*args, check=check, env=self.env)

    def guest(self, name: str) -> Path:
        """A provisioned guest that has lived: host keys, passwords, a deleted secret."""
        args = ("--from", self.root / "golden", "--copy", "--seed", "--dir", self.root / "guests")
        self.run("provision", name, *args, "--mac", "00:16:3e:aa:bb:cc", "--mode", "pv")
        directory = self.root / "guests" / name
        for target, text in (
            ("/etc/ssh/ssh_host_ed25519_key", f"PRIVATE KEY OF {name}\n"),
            ("/etc/shadow", SHADOW),
            ("/etc/shadow-", SHADOW),
            ("/etc/shadow.before", OLD),
            ("/srv/data", "what the guest wrote\n"),
        ):
            put(directory / f"{name}.raw", target, text, self.root / "text")
        debugfs(directory / f"{name}.raw", "rm /etc/shadow.before", write=True)
        assert OLD.encode() in (directory / f"{name}.raw").read_bytes()
        return directory


def debugfs(image: Path, command: str, *, write: bool = False) -> str:
    argv = ["/sbin/debugfs", *(["-w"] if write else []), "-R", command, str(image)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def put(image: Path, target: str, text: str, scratch: Path) -> None:
    scratch.write_text(text)
    subprocess.run(
        ["/sbin/debugfs", "-w", "-f", "-", image],
        input=f"rm {target}\nwrite {scratch} {target}\nsif {target} mode 0100600\n",
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, imagekit: Run) -> Iterator[World]:
    root = tmp_path_factory.mktemp("guests")
    tree = root / "tree"
    for name in ("etc/ssh", "srv", "var/lib", "bin", "usr/bin"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/fstab").write_text(f"UUID={UUID} / ext4 defaults 0 1\n")
    (tree / "etc/os-release").write_text("ID=debian\nVERSION_ID=12\n")
    (tree / "bin/sh").write_bytes(Path(os.path.realpath("/bin/sh")).read_bytes())
    golden = root / "golden"
    golden.mkdir()
    with (golden / "golden.raw").open("wb") as stream:
        stream.truncate(SIZE)
    argv: list[str | Path] = [
        "/sbin/mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-U",
        UUID,
        "-d",
        tree,
        golden / "golden.raw",
    ]
    subprocess.run(argv, check=True)
    for name in ("vmlinuz", "initrd.img"):
        (golden / name).write_text(f"{name}\n")
    write_manifest(golden, FACTS, [artefact("disk", "golden.raw", format="raw")])
    (root / "gnupg").mkdir(mode=0o700)
    (root / "passphrase").write_text("correct horse battery staple\n")
    made = World(root, imagekit)
    yield made
    subprocess.run(
        ["gpgconf", "--homedir", root / "gnupg", "--kill", "all"], check=True, capture_output=True
    )
    shutil.rmtree(root)


def offline(world: World, *args: str | Path) -> None:
    argv = ["unshare", "--net", sys.executable, "-m", "imagekit", *map(str, args)]
    env = {**os.environ, **world.env, "IMAGEKIT_CACHE": str(world.root / "fresh-cache")}
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def sealing(world: World, sealed: str) -> tuple[list[str | Path], list[str | Path], dict[str, str]]:
    """Options that seal, options that open, and the same for the script of a rescue system."""
    if sealed == "passphrase":
        file = world.root / "passphrase"
        options: list[str | Path] = ["--passphrase-file", file]
        return options, options, {"PASSPHRASE_FILE": str(file)}
    if sealed == "age":
        file = world.root / "age.key"
        subprocess.run(["age-keygen", "-o", file], check=True, capture_output=True)
        public = subprocess.run(["age-keygen", "-y", file], check=True, capture_output=True)
        recipient = public.stdout.decode().strip()
        return ["--age", recipient], ["--age-identity", file], {"AGE_IDENTITY": str(file)}
    argv = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "dr"]
    subprocess.run([*argv, "default", "default"], check=True, env={**os.environ, **world.env})
    return ["--encrypt-to", "dr"], [], {"GNUPGHOME": world.env["GNUPGHOME"]}


@pytest.fixture
def loop(world: World) -> Iterator[Path]:
    """A block device as large as the guest's disk."""
    with loop_device(world.root / "device.img", SIZE) as device:
        yield device


@pytest.mark.parametrize("sealed", ["passphrase", "key", "age"])
def test_a_sealed_guest_comes_back_with_its_data_host_keys_mac_and_uuid(
    world: World, sealed: str, loop: Path
) -> None:
    name = f"sealed-{sealed}"
    directory = world.guest(name)
    raw, config = (
        (directory / f"{name}.raw").read_bytes(),
        (directory / f"{name}.cfg").read_text(),
    )
    bundle, out = world.root / f"{name}.bundle", world.root / f"{name}-again"
    close, key, rescue = sealing(world, sealed)
    world.run("bundle", name, "-o", bundle, *close)
    listed = subprocess.run(["tar", "-tf", bundle], check=True, capture_output=True, text=True)
    names = [n for n in listed.stdout.split() if n.startswith(("image/", "boot/", "configs/"))]
    suffix = ".age" if sealed == "age" else ".gpg"
    assert len(names) == 5 and all(n.endswith(suffix) for n in names)
    world.run("destroy", name, "--yes")
    assert not directory.exists()
    world.run("bundle", "verify", bundle)
    lines = world.run("reinstall", bundle, "-o", out, "--dry-run", ANYBODY).stdout
    assert "decrypt" in lines and "STOP" not in lines and not out.exists()
    offline(world, "reinstall", bundle, "-o", out, ANYBODY, *key)
    assert (out / f"{name}.raw").read_bytes() == raw
    for file in ("vmlinuz", "initrd.img"):
        assert (out / f"{name}-{file}").read_text() == f"{file}\n"
    assert facts_of(config, str(directory), f"{name}") == facts_of(
        (out / f"{name}.cfg").read_text(), str(out), name
    )
    assert "00:16:3e:aa:bb:cc" in (out / f"{name}.cfg").read_text()
    keys = debugfs(out / f"{name}.raw", "cat /etc/ssh/ssh_host_ed25519_key")
    assert keys == f"PRIVATE KEY OF {name}\n"
    script = world.root / "reinstall.sh"
    script.write_text(world.run("reinstall", bundle, "--emit-script", ANYBODY).stdout)
    argv = ["unshare", "--net", "sh", str(script), str(bundle), str(loop)]
    done = subprocess.run(
        [*argv[:-2], forged(bundle, world.root), str(loop)], capture_output=True, text=True
    )
    assert (done.returncode, "not the one" in done.stderr) == (1, True)
    assert loop.read_bytes() == bytes(SIZE)
    wrong = {"PASSPHRASE_FILE": "/dev/null", "AGE_IDENTITY": "", "GNUPGHOME": str(out)}
    for environment, code in ((wrong, 1), (rescue, 0)):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stderr
        # What the device holds is not touched for a key that does not fit.
        assert loop.read_bytes() == (raw if code == 0 else bytes(SIZE))
        assert ("cannot be opened" in done.stderr) == (code == 1)


def forged(bundle: Path, root: Path) -> Path:
    """A bundle of the same members, whole by itself, with another disk."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        members = read_container(bundle, Path(name)).members
        sources: list[tuple[str, Path | bytes]] = [
            (m.name, b"evil" if m.name.startswith("image/") else Path(name) / m.name)
            for m in members
        ]
        target = root / "forged.bundle"
        write_container(target, read_container(bundle).about, sources, None, overwrite=True)
    return target


def facts_of(config: str, directory: str, name: str) -> str:
    """A config with the paths of its files made the same, wherever they are."""
    for old in (f"{directory}/{name}-", f"{directory}/"):
        config = config.replace(old, "")
    return config


def test_a_guest_is_bundled_without_its_secrets_unless_they_are_sealed(
    world: World, tmp_path: Path
) -> None:
    world.guest("plain")
    bundle = world.root / "plain.bundle"
    world.run("bundle", "plain", "-o", bundle)
    out = world.root / "plain-again"
    offline(world, "reinstall", bundle, "-o", out, ANYBODY)
    raw = out / "plain.raw"
    data = raw.read_bytes()
    for secret in (HASH, OLD, "PRIVATE KEY OF"):
        assert secret.encode() not in data
    assert subprocess.run(["/sbin/e2fsck", "-fn", raw], capture_output=True).returncode == 0
    shadow = debugfs(raw, "cat /etc/shadow")
    assert shadow == "root:!:19000:0:99999:7:::\ndaemon:*:19000::::::\nanna:!:19000::::::\n"
    assert debugfs(raw, "cat /srv/data") == "what the guest wrote\n"
    assert "ssh_host" not in debugfs(raw, "ls -p /etc/ssh")
    report = json.loads((out / "reinstall-report.json").read_text())
    assert "nobody vouches" in report["notes"][0]
    assert "password hashes were left out" in report["notes"][1]
    # The guest itself kept all of it.
    kept = (world.root / "guests/plain/plain.raw").read_bytes()
    assert HASH.encode() in kept and b"PRIVATE KEY OF plain" in kept


def test_a_wrong_passphrase_and_a_flipped_byte_are_refused_and_nothing_is_left(
    world: World, tmp_path: Path
) -> None:
    world.guest("guarded")
    bundle, out = world.root / "guarded.bundle", tmp_path / "out"
    world.run("bundle", "guarded", "-o", bundle, "--passphrase-file", world.root / "passphrase")
    wrong = tmp_path / "wrong"
    wrong.write_text("correct horse battery stable\n")
    args = ("reinstall", bundle, "-o", out, ANYBODY)
    done = world.run(*args, "--passphrase-file", wrong, check=False)
    assert (done.returncode, "cannot be decrypted" in done.stderr) == (7, True)
    whole = bundle.read_bytes()
    for position in range(1000, len(whole), len(whole) // 3):
        changed = bytearray(whole)
        changed[position] ^= 0x04
        bundle.write_bytes(changed)
        assert world.run("bundle", "verify", bundle, check=False).returncode == 7
    assert not out.exists()


def test_what_an_installer_made_comes_back_as_its_finished_disk(
    world: World, tmp_path: Path
) -> None:
    build, spec = tmp_path / "build", tmp_path / "golden.yaml"
    shutil.copytree(world.root / "golden", build)
    (tmp_path / "x.iso").touch()
    (tmp_path / "own.cfg").write_text("d-i my/answers string\n")
    spec.write_text(
        "name: golden\nos: {distribution: debian, suite: bookworm}\n"
        "install: {method: iso, iso: ./x.iso, template: ./own.cfg}\n"
    )
    file = load_spec(spec)
    template = hashlib.sha256((tmp_path / "own.cfg").read_bytes()).hexdigest()
    lock = {"name": "golden", "spec_sha256": file.sha256, "method": "iso", "source_date_epoch": 0}
    installed = [{"name": "bash", "version": "5.2", "architecture": "amd64"}]
    more = {"epoch_from": "packages", "installed": installed, "templates": {"./own.cfg": template}}
    (build / "golden.lock").write_text(lock_text(Lock.model_validate({**lock, **more})))
    manifest = read_manifest(build)
    (disk,) = manifest.disks
    raw = (build / "golden.raw").read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    whole = (
        disk.model_copy(update={"sha256": digest, "virtual_size_bytes": SIZE}),
        artefact("kernel", "vmlinuz"),
        artefact("initrd", "initrd.img"),
        artefact("domain-config", "golden.pv.xl.cfg", mode="pv", toolstack="xl"),
    )
    manifest = manifest.model_copy(update={"artefacts": whole, "spec_sha256": file.sha256})
    (build / "golden.pv.xl.cfg").touch()
    (build / MANIFEST).write_text(manifest_text(manifest))
    bundle, out = tmp_path / "golden.bundle", tmp_path / "again"
    world.run("bundle", build, "--spec", spec, "-o", bundle)
    assert b"d-i my/answers" in bundle.read_bytes()
    offline(world, "reinstall", bundle, "-o", out, ANYBODY)
    assert (out / "golden.raw").read_bytes() == raw
    assert str(out / "golden.raw") in (out / "golden.pv.xl.cfg").read_text()
    (tmp_path / "own.cfg").write_text("d-i other/answers string\n")
    done = world.run("bundle", build, "--spec", spec, "-o", bundle, "--force", check=False)
    assert (done.returncode, "own.cfg has changed" in done.stderr) == (3, True)


@pytest.mark.kills
def test_a_killed_bundle_was_never_there_and_can_be_made_again(
    world: World, tmp_path: Path
) -> None:
    directory = world.guest("killed")
    raw, target = (directory / "killed.raw").read_bytes(), tmp_path / "killed.bundle"
    args = ["bundle", "killed", "-o", str(target)]
    args += ["--passphrase-file", str(world.root / "passphrase")]
    for round_ in range(ROUNDS):
        argv = [sys.executable, "-m", "imagekit", *args]
        process = subprocess.Popen(
            argv,
            env={**os.environ, **world.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.4 + random.Random(round_).random() * 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert [p.name for p in tmp_path.iterdir()] in ([], ["killed.bundle"])
        if target.exists():
            world.run("bundle", "verify", target)
            target.unlink()
    world.run(*args)
    world.run("bundle", "verify", target)
    assert (directory / "killed.raw").read_bytes() == raw


def test_a_running_guest_and_an_unknown_one_are_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.guest("busy")
    xl = tmp_path / "xl"
    xl.write_text('#!/bin/sh\n[ "$1 $2" = "domid busy" ] && echo 7\n')
    xl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    target = tmp_path / "x.bundle"
    done = world.run("bundle", "busy", "-o", target, check=False)
    assert (done.returncode, "runs" in done.stderr) == (12, True)
    done = world.run("bundle", "nobody", "-o", target, check=False)
    assert (done.returncode, "no guest nobody" in done.stderr) == (3, True)
    assert not target.exists()
