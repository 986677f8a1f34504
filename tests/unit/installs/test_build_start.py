"""What a build finds out when it starts, and that no name of this host gets into a key."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imagekit.host.apt_sources import Archive
from imagekit.installs import start as starting
from imagekit.installs.build import plan_for
from imagekit.installs.context import BuildContext
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.start import ArchiveState, ask, is_outdated, start
from imagekit.pipeline.plan import Plan
from imagekit.spec.derived import DEFAULT_EPOCH
from imagekit.spec.load import SpecFile, load_spec

DATE = 1_690_000_000


class Host:
    """A build host with mirrors of its own below ``root``, and a store of its own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._patch = root, monkeypatch
        self.archive = Archive(f"file:{root}/debian", f"file:{root}/security", None)
        self.publish("debian", "bookworm", DATE)
        self.publish("debian", "bookworm-updates", DATE - 1)
        self.publish("security", "bookworm-security", DATE + 1)

    def publish(self, mirror: str, suite: str, date: int) -> None:
        """Make ``suite`` have a Release file of ``date``."""
        folder = self.root / mirror / "dists" / suite
        folder.mkdir(parents=True, exist_ok=True)
        text = f"Hash: SHA256\n\nOrigin: Debian\nSuite: {suite}\nDate: {formatdate(date)}\n"
        (folder / "InRelease").write_text(text)

    def start(self, file: SpecFile, **more: bool | str) -> BuildContext:
        """What a build of ``file`` depends on here."""
        self._patch.setenv("IMAGEKIT_CACHE", str(self.root / "cache"))
        self._patch.setattr(starting, "host_archive", lambda _distribution: self.archive)
        return start(file, Path("/srv/out"), {}, **more)  # type: ignore[arg-type]


Hosts = Callable[[str], Host]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    return lambda name: Host(tmp_path / name, monkeypatch)


@pytest.fixture
def spec(tmp_path: Path) -> SpecFile:
    return guest(tmp_path)


def guest(base: Path, os_: str = "", install: str = "method: debootstrap") -> SpecFile:
    (base / "keys.gpg").write_bytes(b"key")
    path = base / "g.yaml"
    path.write_text(
        f"name: g\nos: {{suite: bookworm, keyring: keys.gpg{os_}}}\ninstall: {{{install}}}\n"
        "disk: {size: 2GiB, formats: [raw, qcow2, vhd]}\n"
    )
    return load_spec(path)


def keys(context: BuildContext) -> list[str]:
    return [planned.key for planned in plan_for(context).stages]


ELEMENTS = "method: debootstrap, elements: [growroot], element_network: true"
PROVIDED = "method: debootstrap, elements: [debian-minimal], element_network: true"
WHOLE = "method: diskimage-builder, elements: [xen-guest]"


@pytest.mark.parametrize(
    "install", ["method: debootstrap", "method: debootstrap, tool: debootstrap", ELEMENTS, PROVIDED]
)
def test_two_hosts_with_mirrors_of_other_names_have_the_same_keys(
    hosts: Hosts, tmp_path: Path, install: str
) -> None:
    file = guest(tmp_path, install=install)
    one, two = (hosts(name).start(file) for name in ("one", "two"))
    assert one.host != two.host
    assert keys(one) == keys(two)
    assert one.epoch == two.epoch == DATE + 1
    assert one.seed == two.seed


def test_an_element_build_on_two_hosts_has_the_same_keys(hosts: Hosts, tmp_path: Path) -> None:
    file = guest(tmp_path, install=WHOLE)
    one, two = (hosts(name).start(file) for name in ("one", "two"))
    assert keys(one) == keys(two)


def test_other_content_is_another_key_and_another_time(hosts: Hosts, spec: SpecFile) -> None:
    one, two = hosts("one"), hosts("two")
    two.publish("security", "bookworm-security", DATE + 99)
    before, after = one.start(spec), two.start(spec)
    assert keys(before)[0] != keys(after)[0]
    assert (before.epoch, after.epoch) == (DATE + 1, DATE + 99)


def test_a_host_that_changes_its_mirror_notices_other_content_alone(
    hosts: Hosts, spec: SpecFile
) -> None:
    host, same, newer = hosts("one"), hosts("same"), hosts("newer")
    newer.publish("debian", "bookworm", DATE + 50)
    before = keys(host.start(spec))
    host.archive = same.archive
    assert keys(host.start(spec)) == before
    host.archive = newer.archive
    assert keys(host.start(spec)) != before


def test_a_stored_tree_stays_in_use_until_it_is_gone_or_fresh_packages_are_asked_for(
    hosts: Hosts, spec: SpecFile
) -> None:
    host = hosts("one")
    before = host.start(spec)
    host.publish("debian", "bookworm", DATE + 50)
    assert host.start(spec) == before
    plan = plan_for(before)
    assert not is_outdated(plan, {"image": True, "rootfs": False})
    assert is_outdated(plan, {"image": True, "rootfs": True})
    after = host.start(spec, fresh=True)
    assert after.archive != before.archive
    assert after.epoch == DATE + 50
    assert host.start(spec) == after


def test_another_set_of_packages_is_of_the_archive_of_now(hosts: Hosts, tmp_path: Path) -> None:
    host = hosts("one")
    before = host.start(guest(tmp_path))
    host.publish("debian", "bookworm", DATE + 50)
    more = guest(tmp_path, install="method: debootstrap, packages: [nano]")
    assert host.start(more).archive != before.archive


def test_a_mirror_that_does_not_answer_gives_no_key_that_anything_is_stored_under(
    hosts: Hosts, spec: SpecFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = hosts("one")
    good = host.start(spec).archive
    host.archive = replace(host.archive, mirror=f"file:{host.root}/nothing")
    silent = host.start(spec)
    assert silent.archive not in ("", good)
    assert (silent.epoch, silent.epoch_from) == (DEFAULT_EPOCH, "default")
    assert keys(silent) == keys(host.start(spec))
    monkeypatch.setattr(starting, "NOT_TOLD", "of another process")
    assert keys(silent)[0] != keys(host.start(spec))[0]


def test_a_spec_with_mirrors_of_its_own_keeps_them_in_guest_and_key(
    hosts: Hosts, tmp_path: Path
) -> None:
    host = hosts("one")
    first, second = hosts("a"), hosts("b")
    found = []
    for own in (first, second):
        context = host.start(guest(tmp_path, f", mirror: 'file:{own.root}/debian'"))
        found.append(keys(context)[0])
        assert context.epoch == DATE
    assert found[0] != found[1]


def test_the_guests_sources_are_the_distributions_not_the_build_hosts(
    hosts: Hosts, spec: SpecFile
) -> None:
    context = hosts("one").start(spec)
    mirrors = mirrors_for(spec, context.host)
    assert all(url.startswith("file:") for url, _suite in mirrors.sources)
    archive = f"deb http://deb.{'debian.org'}"
    assert mirrors.guest_lines() == [
        f"{archive}/debian bookworm main",
        f"{archive}/debian bookworm-updates main",
        f"{archive}/debian-security bookworm-security main",
    ]
    stages = {p.stage.name: p.stage for p in plan_for(context).stages}
    assert str(context.host.mirror) not in str(stages["rootfs"].key())


def test_unique_builds_differ_in_what_has_identifiers_alone(hosts: Hosts, spec: SpecFile) -> None:
    host = hosts("one")
    plain, one, two = (plan_for(host.start(spec, unique=u)) for u in ("", "a1", "b2"))

    def parts(plan: Plan, stage: str) -> dict[str, str]:
        return dict(next(p.parts for p in plan.stages if p.stage.name == stage))

    assert parts(plain, "rootfs") == parts(one, "rootfs")
    seeds = {parts(plan, "image")["seed"] for plan in (plain, one, two)}
    assert len(seeds) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Date: never\n",
        b"Date: Fri, 01 Jan 99999 00:00:00 UTC\n",
        b"\xff" * 99,
        b"x" * 5_000_000,
    ],
)
def test_a_release_file_that_is_none_gives_no_time(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "dists/bookworm"
    folder.mkdir(parents=True)
    (folder / "InRelease").write_bytes(data)
    mirrors = Mirrors(((f"file:{tmp_path}", "bookworm"),), ("main",), Path("/k"))
    found = ask(mirrors, None, tmp_path / "scratch")
    if not data or len(data) > starting.MAX_RELEASE_BYTES:
        assert found is None
    else:
        assert isinstance(found, ArchiveState)
        assert found.date == 0


class Mirror(BaseHTTPRequestHandler):
    """A mirror whose main suite is fine, whose updates have no end, and that has nothing else."""

    def do_GET(self) -> None:
        text = f"Suite: x\nDate: {formatdate(DATE)}\n".encode()
        suite, name = self.path.split("/")[-2:]
        known = name == "InRelease" and suite in ("good", "endless")
        self.send_response(200 if known else 404)
        length = 1 << 40 if suite == "endless" else len(text)
        self.send_header("Content-Length", str(length if known else 0))
        self.end_headers()
        self.wfile.write(text if known else b"")
        with contextlib.suppress(OSError):
            while known and suite == "endless":
                self.wfile.write(b" " * 65536)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/debian"
    server.shutdown()
    server.server_close()


def test_a_mirror_is_asked_by_apts_own_way_and_cannot_fill_the_disk(
    url: str, tmp_path: Path
) -> None:
    def asked(*suites: str) -> ArchiveState | None:
        scratch = tmp_path / "-".join(suites)
        scratch.mkdir()
        mirrors = Mirrors(tuple((url, suite) for suite in suites), ("main",), Path("/k"))
        return ask(mirrors, None, scratch)

    good = asked("good")
    assert good is not None
    assert good.date == DATE
    both = asked("good", "endless")
    assert both is not None
    assert both.date == DATE
    assert asked("endless") is None
    assert asked("none") is None
    kept = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(kept) < starting.MAX_RELEASE_BYTES


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "dists/bookworm").mkdir(parents=True)
    os.mkfifo(tmp_path / "dists/bookworm/InRelease")
    mirrors = Mirrors(((f"copy:{tmp_path}", "bookworm"),), ("main",), Path("/k"))
    assert ask(mirrors, None, tmp_path / "scratch") is None


def test_archives_without_inrelease_are_told_by_their_release(tmp_path: Path) -> None:
    folder = tmp_path / "dists/bookworm"
    folder.mkdir(parents=True)
    (folder / "Release").write_text(f"Suite: bookworm\nDate: {formatdate(DATE)}\n")
    mirrors = Mirrors(((f"file:{tmp_path}", "bookworm"),), ("main",), Path("/k"))
    found = ask(mirrors, None, tmp_path / "scratch")
    assert found is not None
    assert found.date == DATE
    assert found.sha256 != hashlib.sha256(b"").hexdigest()
