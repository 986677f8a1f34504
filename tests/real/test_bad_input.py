"""Wrong input ends with the documented status, a message that helps, and nothing written."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.builds import Build, Run

pytestmark = pytest.mark.real

GOOD = """\
name: bad01
os: {suite: bookworm%(os)s}
install: {method: debootstrap%(install)s}
disk: {size: %(size)s}
"""


def spec(tmp_path: Path, more: str = "", **values: str) -> Path:
    filled = {"os": "", "install": "", "size": "1GiB", **values}
    path = tmp_path / "guest.yaml"
    path.write_text(GOOD % filled + more)
    return path


def refuse(imagekit: Run, tmp_path: Path, path: Path, status: int, *words: str) -> None:
    out = tmp_path / "out"
    before = sorted(p.name for p in tmp_path.iterdir())
    done = imagekit("build", path, "-o", out, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.fixture
def empty_mirror() -> Iterator[str]:
    """A web server that has nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/debian"
    server.shutdown()
    server.server_close()


def test_an_unknown_suite(imagekit: Run, tmp_path: Path) -> None:
    path = spec(tmp_path)
    path.write_text(path.read_text().replace("bookworm", "bookwurm"))
    refuse(imagekit, tmp_path, path, 3, "bookwurm", "guest.yaml:2")


def test_a_mirror_without_the_suite(imagekit: Run, tmp_path: Path, empty_mirror: str) -> None:
    path = spec(tmp_path, os=f", mirror: '{empty_mirror}'")
    refuse(imagekit, tmp_path, path, 3, "bookworm")


def test_an_unreachable_mirror(imagekit: Run, tmp_path: Path) -> None:
    path = spec(tmp_path, os=", mirror: 'http://127.0.0.1:9/debian'")
    refuse(imagekit, tmp_path, path, 6, "127.0.0.1")


def test_a_wrong_signature(imagekit: Run, tmp_path: Path) -> None:
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback"]
    subprocess.run(
        [*gpg, "--passphrase", "", "--quick-gen-key", "somebody else", "ed25519", "sign"],
        check=True,
        capture_output=True,
    )
    keyring = tmp_path / "other.gpg"
    exported = subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
    keyring.write_bytes(exported)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    path = spec(tmp_path, os=f", keyring: '{keyring}'")
    refuse(imagekit, tmp_path, path, 7, "signature")


def test_a_package_nobody_has(imagekit: Run, tmp_path: Path) -> None:
    path = spec(tmp_path, install=", packages: [no-such-package-anywhere]")
    refuse(imagekit, tmp_path, path, 3, "no-such-package-anywhere", "install.packages")


def test_a_disk_too_small_for_the_tree(demo: Build, imagekit: Run, tmp_path: Path) -> None:
    path = spec(tmp_path, size="256MiB")
    path.write_text(
        path.read_text().replace("debootstrap", "debootstrap, packages: [openssh-server]")
    )
    refuse(imagekit, tmp_path, path, 3, "does not fit", "disk.size")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('identity: {hostname: "we\'b"}\n', ["identity.hostname", "guest.yaml:5:12"]),
        ('identity: {hostname: "web\\n01"}\n', ["identity.hostname"]),
        ("files: [{target: /etc/x, source: 'a,b'}]\n", ["files[0].source", "comma"]),
        ("files: [{target: ../etc/x, content: x}]\n", ["files[0].target"]),
        ("files: [{target: /etc/x, source: missing}]\n", ["files[0].source", "missing"]),
        ("scripts: [missing.sh]\n", ["scripts[0]", "missing.sh"]),
        ("vcpus: 99999999999999999999\n", ["vcpus"]),
        ("memory: 1e99\n", ["memory"]),
        ("\tidentity: {}\n", ["guest.yaml:5:1", "tab"]),
        ("identity: {root_password: {file: nowhere}}\n", ["identity.root_password"]),
        ("identity: {root_password: {env: IMAGEKIT_NO_SUCH}}\n", ["IMAGEKIT_NO_SUCH"]),
    ],
)
def test_a_wrong_field(imagekit: Run, tmp_path: Path, more: str, words: list[str]) -> None:
    refuse(imagekit, tmp_path, spec(tmp_path, more), 3, *words)


def test_a_build_directory_that_no_config_can_name(imagekit: Run, tmp_path: Path) -> None:
    done = imagekit("build", spec(tmp_path), "-o", tmp_path / "a,b", check=False)
    assert done.returncode == 3
    assert not (tmp_path / "a,b").exists()


def test_somebody_elses_directory_is_not_touched(imagekit: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    done = imagekit("build", spec(tmp_path), "-o", mine, check=False)
    assert done.returncode == 13
    assert [p.name for p in mine.iterdir()] == ["letter"]


@pytest.mark.parametrize(("size", "words"), [("8m", "8 MiB free"), ("200m", "no space left")])
def test_no_space_left_for_the_build(
    demo: Build, imagekit: Run, tmp_path: Path, size: str, words: str
) -> None:
    """The build directory is a small tmpfs, mounted where only this command sees it."""
    path = tmp_path / "guest.yaml"
    path.write_text((Path(__file__).parents[2] / "examples/web01.yaml").read_text())
    script = (
        'mount -t tmpfs -o size=$4 small "$1" && "$2" -m imagekit build "$3" -o "$1/out"; '
        's=$?; ls -A "$1"; exit $s'
    )
    small = tmp_path / "small"
    small.mkdir()
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*argv, str(small), sys.executable, str(path), size],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 4, done.stderr
    assert words in done.stderr
    assert "out" not in done.stdout.split()


def test_json_output_tells_errors_to_machines(imagekit: Run, tmp_path: Path) -> None:
    path = spec(tmp_path, "vcpus: many\n")
    done = imagekit("build", path, "-o", tmp_path / "out", "--json", check=False)
    error = json.loads(done.stdout.splitlines()[-1])
    assert error["event"] == "error"
    assert error["kind"] == "spec"
    assert error["exit_code"] == done.returncode == 3
