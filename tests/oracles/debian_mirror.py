"""What the host's own Debian mirror has for a suite: indices, packages, each kept by its digest."""

from __future__ import annotations

import functools
import hashlib
import lzma
import os
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

from imagekit.host.apt_sources import host_archive

Paragraph = dict[str, str]
SECONDS = 60


def kept() -> Path:
    """Where fetched parts stay from one run to the next."""
    home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(os.environ.get("IMAGEKIT_TEST_PARTS", f"{home}/imagekit-tests"))


class DebianMirror:
    """A suite of the mirror in the host's own apt sources; raises LookupError without one."""

    def __init__(self, suite: str, directory: Path | None = None) -> None:
        mirror = host_archive("debian").mirror
        if mirror is None:
            raise LookupError("apt's sources of this host name no Debian mirror")
        self.url = mirror.rstrip("/")
        self.suite = suite
        self._kept = directory or kept()
        self._kept.mkdir(parents=True, exist_ok=True)

    def read(self, path: str) -> bytes:
        """A file below the mirror's top."""
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=SECONDS) as answer:
            return bytes(answer.read())

    def has(self, package: Paragraph) -> bool:
        """Whether the file of ``package`` is there: kept, or on the mirror."""
        if (self._kept / package["SHA256"]).exists():
            return True
        request = urllib.request.Request(f"{self.url}/{package['Filename']}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS):
                return True
        except urllib.error.HTTPError:
            return False

    def fetch(self, package: Paragraph) -> Path:
        """The file of ``package``, fetched once; raises LookupError if it is another."""
        target = self._kept / package["SHA256"]
        if not target.exists():
            data = self.read(package["Filename"])
            if hashlib.sha256(data).hexdigest() != package["SHA256"]:
                raise LookupError(f"{package['Filename']} is not what the mirror's index says")
            part = target.with_name(f"{target.name}.{os.getpid()}")
            part.write_bytes(data)
            part.rename(target)
        return target

    def kept_by_path(self, path: str) -> bytes:
        """A file of the pool, kept; what changes (dists) is asked for each time."""
        if not path.startswith("pool/"):
            return self.read(path)
        target = self._kept / hashlib.sha256(path.encode()).hexdigest()
        if not target.exists():
            part = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
            part.write_bytes(self.read(path))
            part.rename(target)
        return target.read_bytes()

    def deb(self, name: str) -> Paragraph:
        """The paragraph of a package of main for amd64."""
        return self._one(self._debs, name)

    def udeb(self, name: str) -> Paragraph:
        """The paragraph of a package of the installer."""
        return self._one({p["Package"]: p for p in self.udebs()}, name)

    @functools.cached_property
    def _debs(self) -> dict[str, Paragraph]:
        return {p["Package"]: p for p in self._index("main/binary-amd64")}

    @functools.cache  # noqa: B019 - one mirror lives as long as the tests
    def udebs(self) -> list[Paragraph]:
        """All packages of the installer that the index names, the mirror may lack their files."""
        return self._index("main/debian-installer/binary-amd64")

    def _index(self, place: str) -> list[Paragraph]:
        text = lzma.decompress(self.read(f"dists/{self.suite}/{place}/Packages.xz")).decode()
        return [paragraph(part) for part in text.split("\n\n") if part.strip()]

    @staticmethod
    def _one(known: dict[str, Paragraph], name: str) -> Paragraph:
        if name not in known:
            raise LookupError(f"the mirror has no {name}")
        return known[name]


def paragraph(text: str) -> Paragraph:
    """Fields of one paragraph of an index, without continuation lines."""
    return dict(re.findall(r"(?m)^(\S+?): (.*)$", text))
