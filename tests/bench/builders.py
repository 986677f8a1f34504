"""What is measured: imagekit, and other builders with the same packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from imagekit.host.sandbox.box import SUDO
from imagekit.installs.mirrors import mirrors_for
from imagekit.installs.tree_packages import wanted_packages
from imagekit.spec.load import load_spec

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "examples/web01.yaml"
ELEMENTS = ("xen-guest", "xen-pv-kernel", "growroot", "serial-console")
ADDED = "rsync"
TEN = ("rsync", "cron", "less", "nano", "tree", "lsof", "file", "zip", "bc")
"""A package for each of nine builds beside the first; small ones, so that the base counts."""
FORMATS = "raw + qcow2 + VHD, bootable"


def sh(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command, and return what it printed; raises CalledProcessError."""
    done = subprocess.run(
        [*map(str, argv)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(env or {})},
    )
    return done.stdout


def used(directory: Path) -> int:
    """Bytes on disk below ``directory``, as du(1) counts them: what has two names once."""
    found = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in map(Path.lstat, directory.rglob("*"))}
    return sum(found.values())


class Bench:
    """The candidates, all building the package set of the demo image below the directory ``work``,
    which an earlier run may have left there."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.cache = work / "cache"
        self.file = load_spec(SPEC)
        self.packages = wanted_packages(self.file.spec)
        mirrors = mirrors_for(self.file)
        self.sources = work / "sources.list"
        self.sources.write_text("\n".join(mirrors.lines()) + "\n")
        self.mirror = [url for url, _suite in mirrors.sources[:1]]
        self.dib_mirrors = {
            name: url
            for name, (url, _suite) in zip(
                ("DIB_DISTRIBUTION_MIRROR", "DIB_DEBIAN_SECURITY_MIRROR"),
                (*mirrors.sources[:1], *mirrors.sources[-1:]),
                strict=False,
            )
        }
        self.suite = self.file.spec.os.suite

    @property
    def out(self) -> Path:
        """The build that others stand on."""
        return self.work / "out"

    def _imagekit(self, *args: str | Path, cache: Path | None = None) -> str:
        env = {"IMAGEKIT_CACHE": str(cache or self.cache)}
        return sh(sys.executable, "-m", "imagekit", *args, env=env)

    def build(self, *args: str, out: str = "out", cache: Path | None = None) -> str:
        """The demo image, with ``args``."""
        self._imagekit("build", SPEC, "-o", self.work / out, *args, cache=cache)
        return FORMATS

    def cold(self) -> str:
        """From an empty store."""
        for path in (self.cache, self.out):
            shutil.rmtree(path, ignore_errors=True)
        return self.build()

    def changed(self) -> str:
        """Another content of one file."""
        return self.build(
            "--set", "files=[{target: /etc/motd, content: changed}]", "--force", out="changed"
        )

    def package_added(self) -> str:
        """One package more."""
        self.build("--set", f"install.packages=[openssh-server, {ADDED}]", out="added")
        return f"{FORMATS}, with {ADDED}"

    def second_spec(self) -> str:
        """Another guest, of the same suite and kernel, with other packages."""
        packages = "install.packages=[rsync, cron, lsof]"
        self.build("--set", "name=db01", "--set", packages, out="second")
        return FORMATS

    def lvm_cold(self) -> str:
        """Root and swap on LVM, from an empty store of its own."""
        cache = self.work / "cache-lvm"
        for path in (cache, self.work / "lvm"):
            shutil.rmtree(path, ignore_errors=True)
        return self.build("--set", "disk.lvm=true", out="lvm", cache=cache)

    def lvm_changed(self) -> str:
        """Another content of one file there."""
        file = "files=[{target: /etc/motd, content: changed}]"
        arguments = ("--set", "disk.lvm=true", "--set", file)
        return self.build(*arguments, out="lvm-changed", cache=self.work / "cache-lvm")

    def injected(self) -> Path:
        """A copy of the image, for :meth:`inject`."""
        (image,) = self.out.glob("*.raw")
        target = self.work / "injected.raw"
        if not target.exists():
            sh("cp", "--sparse=always", image, target)
        return target

    def inject(self) -> str:
        """One file into a finished image."""
        text = f"/etc/motd:{os.urandom(8).hex()}"
        self._imagekit("inject", self.work / "injected.raw", "--write", text)
        return "raw image"

    def inspect(self) -> str:
        """A finished image."""
        return self._inspect("out")

    def lvm_inspect(self) -> str:
        """A finished image on LVM."""
        return self._inspect("lvm")

    def _inspect(self, name: str) -> str:
        (image,) = (self.work / name).glob("*.raw")
        self._imagekit("inspect", image)
        return "raw image"

    def store_of_ten(self) -> None:
        """Nine more builds of the base that the cold build made, in a store like it."""
        for number, package in enumerate(TEN, 2):
            packages = f"install.packages=[openssh-server, {package}]"
            self.build("--set", f"name=web{number:02}", "--set", packages, out="ten")
            shutil.rmtree(self.work / "ten")

    def mmdebstrap(self) -> str:
        """A bare tree of the same packages, by the tool that imagekit has its trees from."""
        target = self.work / "mmdebstrap.tar"
        sh(
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(self.packages)}",
            self.suite,
            target,
            self.sources,
        )
        target.unlink()
        return "tar, not bootable"

    def debootstrap(self) -> str:
        """The same by debootstrap."""
        target = self.work / "debootstrap"
        sh(
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(self.packages)}",
            self.suite,
            target,
            *self.mirror,
        )
        shutil.rmtree(target)
        return "directory, not bootable"

    def virt_copy_in(self) -> str:
        """libguestfs's own program for one file."""
        (self.work / "motd").write_text("changed\n")
        sh("virt-copy-in", "-a", self.work / "injected.raw", self.work / "motd", "/etc")
        return "raw image"

    def with_elements(self) -> str:
        """The demo image with elements, by imagekit's own stages."""
        elements = f"install.elements=[{', '.join(ELEMENTS)}]"
        cache = self.work / "elements-cache"
        return self.build("--set", elements, out="elements", cache=cache)

    def diskimage_builder(self) -> str:
        """disk-image-create without elements of ours."""
        return self._disk_image_create()

    def diskimage_builder_with_elements(self) -> str:
        """disk-image-create with the same elements."""
        return self._disk_image_create(*ELEMENTS)

    def _sudo(self) -> Path:
        """A directory with a sudo for root, found where the host has none."""
        directory = self.work / "bin"
        directory.mkdir(exist_ok=True)
        shutil.copyfile(SUDO, directory / "sudo")
        (directory / "sudo").chmod(0o755)
        return directory

    def _disk_image_create(self, *elements: str) -> str:
        """disk-image-create as it is, with a cache of its own that later runs find again."""
        target = self.work / "dib"
        bin_ = Path(sys.executable).parent
        env = {
            "PATH": f"{bin_}:{os.environ['PATH']}:/usr/sbin:/sbin:{self._sudo()}",
            "DIB_RELEASE": self.suite,
            "DIB_PYTHON_VERSION": "3",
            "DIB_INITRD_LATER": "0",
            "DIB_IMAGE_CACHE": str(self.work / "image-cache"),
            "ELEMENTS_PATH": str(ROOT / "elements"),
            "TMP_DIR": str(self.work),  # a TMPDIR would be looked for in the tree too
            "DIB_DEBIAN_COMPONENTS": "main",
            **self.dib_mirrors,
        }
        packages = ",".join(self.packages)
        options = ["-t", "tar", "-o", str(target), "-p", packages]
        sh(bin_ / "disk-image-create", *options, "debian-minimal", *elements, env=env)
        for path in self.work.glob("dib*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return "tar, not bootable"

    def xva(self) -> str:
        """The image as XenServer's appliance."""
        target = self.work / "xva"
        sh(
            *(sys.executable, "-m", "imagekit", "config", self.out),
            *("--toolstack", "xva", "--mode", "pv", "--boot", "pygrub", "-o", target),
        )
        size = sum(f.stat().st_size for f in target.iterdir())
        shutil.rmtree(target)
        return f"{size / 1e6:.0f} MB written"

    def prove_first(self) -> str:
        """A proof of one guest, with the lab made."""
        return self._prove("--mode", "pv", "--boot", "pygrub")

    def prove_more(self) -> str:
        """A proof of two guests, the lab there."""
        return self._prove("--mode", "pv", "--mode", "pvh")

    def _prove(self, *args: str) -> str:
        self._imagekit("prove", self.out, *args)
        report = json.loads((self.out / "proof.json").read_text())
        return ", ".join(f"{name} {seconds} s" for name, seconds in report["seconds"].items())
