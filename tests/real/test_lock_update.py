"""Moving a lock to what a mirror has now: all of it, or one package and what it needs."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import ClassVar

import pytest
from oracles.builds import Run

from imagekit.installs.tree_packages import wanted_packages
from imagekit.spec.load import load_spec
from imagekit.spec.lock import Lock, lock_text, read_lock

pytestmark = pytest.mark.real
DATE = 1_700_000_000
# Name, version, what it depends on. Everything else that a guest needs stands alone.
OLD = {
    "linux-image-amd64": ("1", "linux-image-1-amd64"),
    "linux-image-1-amd64": ("1", ""),
    "tool": ("1", "libtool, libother"),
    "libtool": ("1", ""),
    "libother": ("1", ""),
    "base-files": ("1", ""),
}
NEW = {
    "linux-image-amd64": ("2", "linux-image-2-amd64"),
    "linux-image-2-amd64": ("2", ""),
    "tool": ("2", "libtool (>= 2), libnew"),
    "libtool": ("2", ""),
    "libother": ("2", ""),
    "libnew": ("2", ""),
    "base-files": ("2", ""),
}


class Mirror:
    """An archive of names: a signed Release and a Packages file, without a single package."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "mirror"
        self.home = directory / "gnupg"
        self.home.mkdir(mode=0o700)
        self.keyring = directory / "archive.gpg"
        self._gpg("--passphrase", "", "--quick-generate-key", "archive", "ed25519", "sign")
        self._gpg("--output", self.keyring, "--export", "archive")

    def _gpg(self, *args: str | Path) -> None:
        argv = ["gpg", "--homedir", self.home, "--batch", "--yes", "--quiet", *args]
        subprocess.run(argv, check=True, capture_output=True)

    def publish(self, date: int, *packages: dict[str, tuple[str, str]], more: str = "") -> None:
        text = "\n".join(stanza(n, *rest) for some in packages for n, rest in some.items())
        index = self.root / "dists/bookworm/main/binary-amd64/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        release = self.root / "dists/bookworm/Release"
        release.write_text(
            "Origin: test\nSuite: bookworm\nCodename: bookworm\nArchitectures: amd64\n"
            f"Components: main\nDate: {formatdate(date, usegmt=True)}\n{more}SHA256:\n"
            f" {digest} {len(text)} main/binary-amd64/Packages\n"
        )
        self._gpg("--output", release.with_name("InRelease"), "--clearsign", release)

    def close(self) -> None:
        argv: list[str | Path] = ["gpgconf", "--homedir", self.home, "--kill", "all"]
        subprocess.run(argv, check=True, capture_output=True)
        shutil.rmtree(self.home)


def sha(name: str, version: str) -> str:
    return hashlib.sha256(f"{name} {version}".encode()).hexdigest()


def stanza(name: str, version: str, depends: str) -> str:
    essential = "Essential: yes\nPriority: required\n" if name == "base-files" else ""
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n{essential}"
        + (f"Depends: {depends}\n" if depends else "")
        + f"Filename: pool/{name}_{version}.deb\nSize: 7\nSHA256: {sha(name, version)}\n"
    )


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path)
    yield made
    made.close()


@pytest.fixture
def spec(mirror: Mirror, tmp_path: Path) -> Path:
    path = tmp_path / "web.yaml"
    path.write_text(
        f"name: web\nos: {{distribution: debian, suite: bookworm, mirror: 'file:{mirror.root}',\n"
        f"  keyring: {mirror.keyring}}}\ninstall: {{method: debootstrap, packages: [tool]}}\n"
    )
    return path


@pytest.fixture
def plain(spec: Path) -> dict[str, tuple[str, str]]:
    """The packages of every guest, none of which ever changes here."""
    names = {"apt", *wanted_packages(load_spec(spec).spec)} - {"tool", "linux-image-amd64"}
    return dict.fromkeys(sorted(names), ("1", ""))


@pytest.fixture
def old(
    spec: Path, mirror: Mirror, plain: dict[str, tuple[str, str]], imagekit: Run, tmp_path: Path
) -> Path:
    """The lock of what the mirror had first, beside the spec."""
    mirror.publish(DATE, plain, OLD)
    file = load_spec(spec)
    empty = {"name": "web", "spec_sha256": file.sha256, "method": "debootstrap"}
    value = {**empty, "source_date_epoch": 1, "epoch_from": "releases", "kernel": "1-amd64"}
    lock = tmp_path / "web.lock"
    lock.write_text(lock_text(Lock.model_validate(value)))
    imagekit("lock", "update", "--spec", spec)
    return lock


def versions(lock: Path) -> dict[str, str]:
    return {p.name: p.version for p in read_lock(lock).packages}


def expected(plain: dict[str, tuple[str, str]], some: dict[str, str]) -> dict[str, str]:
    return {**{name: version for name, (version, _) in plain.items()}, **some}


def test_all_packages_move_and_the_lock_says_so(
    old: Path, spec: Path, mirror: Mirror, plain: dict[str, tuple[str, str]], imagekit: Run
) -> None:
    assert versions(old) == expected(plain, {name: "1" for name in OLD})
    assert read_lock(old).source_date_epoch == DATE
    assert imagekit("lock", "update", "--spec", spec).stdout == "nothing changed\n"
    mirror.publish(DATE + 60, plain, NEW)
    done = imagekit("lock", "--update", "--spec", spec)
    assert "package tool:amd64: 1" in done.stdout
    # libother is needed by nobody any more.
    assert versions(old) == expected(plain, {n: "2" for n in NEW if n != "libother"})
    new = read_lock(old)
    assert (new.source_date_epoch, new.kernel) == (DATE + 60, "2-amd64")
    assert (new.epoch_from, new.seed) == ("archive", f"{new.spec_sha256} {DATE + 60}")
    assert {p.sha256 for p in new.packages if p.name == "tool"} == {sha("tool", "2")}


def test_one_package_moves_with_what_it_needs_and_everything_else_stays(
    old: Path,
    spec: Path,
    mirror: Mirror,
    plain: dict[str, tuple[str, str]],
    imagekit: Run,
    tmp_path: Path,
) -> None:
    # The mirror still has the old packages, as one that keeps several versions.
    mirror.publish(DATE + 60, plain, OLD, NEW)
    out = tmp_path / "one.lock"
    imagekit("lock", "--update", "tool", "--spec", spec, "-o", out)
    moved = {"tool": "2", "libtool": "2", "libnew": "2", "base-files": "1"}
    stayed = {"linux-image-amd64": "1", "linux-image-1-amd64": "1"}
    assert versions(out) == expected(plain, {**moved, **stayed})
    lock = read_lock(out)
    assert lock.kernel == "1-amd64"
    assert [r.date for r in lock.releases] == [DATE, DATE + 60]
    kernel = tmp_path / "kernel.lock"
    imagekit("lock", "update", "linux-image-amd64", "--spec", spec, "-o", kernel)
    assert read_lock(kernel).kernel == "2-amd64"
    assert "linux-image-1-amd64" not in versions(kernel)
    assert versions(kernel)["tool"] == "1"


def test_what_is_gone_from_the_mirror_moves_too_and_is_named(
    old: Path, spec: Path, mirror: Mirror, plain: dict[str, tuple[str, str]], imagekit: Run
) -> None:
    mirror.publish(DATE + 60, plain, {**OLD, "libtool": ("2", "")})
    done = imagekit("lock", "update", "tool", "--spec", spec)
    assert "no longer had libtool" in done.stdout
    assert versions(old)["libtool"] == "2"
    assert versions(old)["tool"] == "1"


def test_a_strange_name_and_a_strange_key_are_refused(
    old: Path, spec: Path, mirror: Mirror, imagekit: Run
) -> None:
    before = old.read_bytes()
    done = imagekit("lock", "update", "nosuch", "--spec", spec, check=False)
    assert (done.returncode, "the lock has no package nosuch" in done.stderr) == (3, True)
    release = mirror.root / "dists/bookworm/InRelease"
    release.write_text(release.read_text().replace("Origin: test", "Origin: nest"))
    done = imagekit("lock", "update", "--spec", spec, check=False)
    assert (done.returncode, "signature" in done.stderr) == (7, True), done.stderr
    assert old.read_bytes() == before


class Answers(http.server.SimpleHTTPRequestHandler):
    """Serves a mirror, but for what ``answers`` says: path part to a status, or to a page."""

    answers: ClassVar[dict[str, int | str]] = {}

    def do_GET(self) -> None:
        for part, answer in self.answers.items():
            if part in self.path:
                if isinstance(answer, int):
                    self.send_error(answer)
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer.encode())
                return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def answers(mirror: Mirror) -> Iterator[dict[str, int | str]]:
    """What a web server before the mirror answers besides, and its port."""
    told: dict[str, int | str] = {}
    kind = type("Told", (Answers,), {"answers": told})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(kind, directory=str(mirror.root))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    told["port"] = server.server_address[1]
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("what", "at", "exit_code", "field", "message"),
    [
        (404, "/dists/", 3, "os.suite", "the mirror has no suite bookworm: nothing is at http://"),
        (403, "/dists/", 6, "os.mirror", "the mirror answered HTTP 403 Forbidden for http://"),
        (500, "/dists/", 6, "os.mirror", "the mirror answered HTTP 500 Internal Server Error"),
        (401, "/dists/", 6, "os.mirror", "the mirror answered HTTP 401 Unauthorized"),
        (404, "/Packages", 6, "os.mirror", "the mirror answered HTTP 404 Not Found for http://"),
        ("<html>please log in</html>", "/dists/", 6, "os.mirror", "not an archive of bookworm"),
        (-3600, "", 7, "os.mirror", "the Release file of the mirror has expired, "),
        (3600, "", 7, "os.mirror", "the Release file of the mirror is from the future, by "),
    ],
)
def test_what_a_mirror_does_wrong_is_named(
    old: Path,
    spec: Path,
    mirror: Mirror,
    plain: dict[str, tuple[str, str]],
    answers: dict[str, int | str],
    imagekit: Run,
    what: int | str,
    at: str,
    exit_code: int,
    field: str,
    message: str,
) -> None:
    if at:
        answers[at] = what
    elif isinstance(what, int):
        now = int(time.time())
        until = f"Valid-Until: {formatdate(now + what, usegmt=True)}\n" if what < 0 else ""
        mirror.publish(now - 7200 if what < 0 else now + 3 * what, plain, NEW, more=until)
    before = old.read_bytes()
    url = f"http://127.0.0.1:{answers['port']}"
    spec.write_text(spec.read_text().replace(f"file:{mirror.root}", url))
    done = imagekit("lock", "update", "--spec", spec, check=False)
    assert (done.returncode, message in done.stderr) == (exit_code, True), done.stderr
    assert f"{spec.name}:2:5 {field}" in done.stderr or f" {field}: " in done.stderr, done.stderr
    assert old.read_bytes() == before
