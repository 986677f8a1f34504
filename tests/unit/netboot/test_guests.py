"""The guest database: what it refuses, and that assigning changes one word of the file."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagekit.cli.guests import app
from imagekit.cli.netboot import app as netboot_app
from imagekit.domain import guestdb
from imagekit.errors import SpecError
from imagekit.netboot import request

TEXT = """# our guests
hosts: [xenhost1.example.org, xenhost2.example.org]
guests:
  - name: web1.example.org   # the front
    mac: "00:16:3E:10:20:30"
    host: xenhost1.example.org
    ip: 192.0.2.30
    hardware: {memory_mib: 2048, vcpus: 2}
  - name: db1.example.org
    mac: 00:16:3e:10:20:31
    host: xenhost1.example.org
    os: debian-11
    method: iso
  - name: spare.example.org
    mac: 00:16:3e:10:20:32
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "guests.yaml"
    made.write_text(TEXT)
    return made


def names(found: list[guestdb.Guest]) -> list[str]:
    return [guest.name.split(".")[0] for guest in found]


def test_lists_per_host(path: Path) -> None:
    db = guestdb.load(path)
    lists = db.by_host()
    assert {host: names(found) for host, found in lists.items()} == {
        "xenhost1.example.org": ["web1", "db1"],
        "xenhost2.example.org": [],
        "": ["spare"],
    }
    assert db.get("web1").mac == "00:16:3e:10:20:30"
    assert db.get("web1").hardware.memory_mib == 2048
    assert db.xen_db() == (
        "variable XEN_DB = nlist(\n"
        '    "xenhost1.example.org", list("web1.example.org", "db1.example.org"),\n);\n'
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("20:31", "20:30", "mac 00:16:3e:10:20:30 is given 2 times"),
        ("db1.example.org", "web1.example.org", "name web1"),
        (
            "db1.example.org\n    mac: 00:16:3e:10:20:31\n    host: xenhost1",
            "web1.example.org\n    mac: 00:16:3e:10:20:31\n    host: xenhost2",
            "web1.example.org is on two hosts: xenhost1.example.org, xenhost2.example.org",
        ),
        ("mac: 00:16:3e:10:20:31", "mac: 01:16:3e:10:20:31", "multicast or null"),
        ("mac: 00:16:3e:10:20:31", "mac: web1", "not a MAC"),
        ("os: debian-11", "os: ../x", r"guests\[1\].os"),
        ("os: debian-11", "colour: red", r"guests\[1\].colour"),
        ("os: debian-11", "host: other", "not YAML|host"),
        ("192.0.2.30", "127.0.0.1", "not an IPv4 address"),
        ("memory_mib: 2048", "memory_mib: 1", "memory_mib"),
        ("hosts: [", "hosts: [[", "YAML"),
        ("xenhost2.example.org]", "xenhost1.example.org]", "host is listed twice"),
    ],
)
def test_unsound_databases_are_refused(path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path.write_text(
        TEXT.replace(old, new, 1) if "\n" in old or ":" in old else TEXT.replace(old, new)
    )
    with pytest.raises(SpecError, match=message) as caught:
        guestdb.load(path)
    assert str(path) in str(caught.value.where)


def test_the_error_names_the_line(path: Path) -> None:
    path.write_text(TEXT.replace("os: debian-11", "os: 7"))
    with pytest.raises(SpecError) as caught:
        guestdb.load(path)
    assert caught.value.where == f"{path}:9"


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\x00", "guests: {}", "guests: [1]", "x" * 10])
def test_what_is_no_database_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SpecError):
        guestdb.load(path)


def test_assign_changes_one_line_and_keeps_comments(path: Path) -> None:
    path.chmod(0o640)
    assert guestdb.assign(path, "db1", "xenhost2.example.org").host == "xenhost2.example.org"
    changed = [
        line
        for line in difflib.ndiff(TEXT.splitlines(), path.read_text().splitlines())
        if line[0] in "+-"
    ]
    assert changed == ["-     host: xenhost1.example.org", "+     host: xenhost2.example.org"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["guests.yaml"]


@pytest.mark.parametrize(
    "entry",
    [
        "  - {mac: 00:16:3e:10:20:99, name: x}\n",
        "  - {name: x, host: '', mac: 00:16:3e:10:20:99}\n",
        "  - mac: 00:16:3e:10:20:99\n    name: x\n",
        "  - name: x\n    mac: 00:16:3e:10:20:99\n    host:\n",
        "  -\n    name: x\n    host: ''  # none\n    mac: 00:16:3e:10:20:99\n",
    ],
)  # fmt: skip
def test_assign_and_take_off_in_every_style_of_yaml(path: Path, entry: str) -> None:
    entry = entry.replace("host:\n", "host: ''\n")
    path.write_text(TEXT + entry)
    for host in ("xenhost1.example.org", "xenhost2.example.org", ""):
        guestdb.assign(path, "x", host)
        db = guestdb.load(path)
        assert db.get("x").host == host
        assert len(db.guests) == 4
        assert "# our guests" in path.read_text()


def test_assign_to_an_unknown_host_or_of_an_unknown_guest_changes_nothing(path: Path) -> None:
    for name, host in (("db1", "nowhere"), ("nobody", "xenhost1.example.org")):
        with pytest.raises(SpecError):
            guestdb.assign(path, name, host)
    assert path.read_text() == TEXT


def test_commands(path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["list", "-f", str(path), "--format", "json"])
    assert [g["name"] for g in json.loads(listed.output)["xenhost1.example.org"]] == [
        "web1.example.org",
        "db1.example.org",
    ]
    assert "web1.example.org" in runner.invoke(app, ["list", "-f", str(path)]).output
    assert (
        runner.invoke(app, ["assign", "spare", "xenhost2.example.org", "-f", str(path)]).exit_code
        == 0
    )
    shown = json.loads(runner.invoke(app, ["show", "spare", "-f", str(path)]).output)
    assert shown["host"] == "xenhost2.example.org"


def test_whole_database_becomes_a_netboot_tree(tmp_path: Path) -> None:
    (tmp_path / "linux").write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    (tmp_path / "debian.yaml").write_text(
        "installer: {kernel: linux}\nargs: auto hostname={name} mac={mac}\n"
    )
    database = tmp_path / "guests.yaml"
    database.write_text(TEXT.replace("method: iso", "spec: debian.yaml"))
    with pytest.raises(SpecError, match="has no spec"):
        request.of_database(database)
    entries = [f"    mac: 00:16:3e:10:20:{end}\n" for end in ("31", "32")]
    text = TEXT.replace('"00:16:3E:10:20:30"', "00:16:3e:10:20:30\n    spec: debian.yaml")
    database.write_text(text.replace(entries[1], entries[1] + "    spec: debian.yaml\n"))
    root = tmp_path / "root"
    words = ["publish", "--root", str(root), "--guests", str(database)]
    done = CliRunner().invoke(netboot_app, words)
    assert done.exit_code == 0, done.output
    for end, name in (("30", "web1"), ("32", "spare")):
        config = (root / f"tftp/pxelinux.cfg/01-00-16-3e-10-20-{end}").read_text()
        assert f"hostname={name}.example.org mac=00:16:3e:10:20:{end}" in config
    assert not (root / "tftp/pxelinux.cfg/01-00-16-3e-10-20-31").exists()
    only = request.of_database(database, "xenhost1.example.org")
    assert [found.name for _, found in only] == ["web1.example.org"]
    (tmp_path / "debian.yaml").write_text("installer: {kernel: linux}\nmac: 00:16:3e:00:00:01\n")
    with pytest.raises(SpecError, match="in the guest database"):
        request.of_database(database)


@pytest.mark.parametrize(
    "installer",
    [
        '{deb: "a\\0b", sha256: x}',
        '{iso: "\\x1b.iso", sha256: x}',
        '{mirror: "http://h/", suite: s, keyring: "/a\\0"}',
        '{kernel: "a\\0"}',
        '{kernel: a, initrd: "a\\nb"}',
        '{kernel: "\\ud83d"}',
    ],
)
def test_names_that_are_no_files_are_refused(tmp_path: Path, installer: str) -> None:
    path = tmp_path / "request.yaml"
    path.write_text(f'name: a\nmac: "00:16:3e:00:00:01"\ninstaller: {installer}\n')
    with pytest.raises(SpecError, match="installer"):
        request.load(path)


def test_answers_are_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "request.yaml"
    head = 'name: a\nmac: "00:16:3e:00:00:01"\ninstaller: {kernel: k}\n'
    path.write_text(head + "answers: sub dir/preseed.cfg\n")
    assert request.load(path).answers == Path("sub dir/preseed.cfg")
    path.write_text(head + 'answers: "pre\\0seed.cfg"\n')
    with pytest.raises(SpecError, match=r"answers.*control character"):
        request.load(path)
