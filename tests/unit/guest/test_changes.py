"""What users write on the command line of inject, before any image is opened."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import SpecError
from imagekit.guest import change_options as options
from imagekit.guest import changes, from_spec
from imagekit.guest.accounts import AccountTable, parse_group, parse_passwd
from imagekit.guest.hostname import edit_hosts
from imagekit.guest.sshkeys import add_keys, parse_key, parse_keys
from imagekit.guest.working import named_format
from imagekit.spec.load import SpecFile, load_spec


def make_key(name: str = "ssh-ed25519", body: bytes = b"\1" * 32, comment: str = "me@here") -> str:
    blob = struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(body)) + body
    return f"{name} {base64.b64encode(blob).decode()} {comment}"


@pytest.mark.parametrize(
    ("text", "target", "mode", "owner"),
    [
        ("{src}:/etc/motd", "/etc/motd", None, "root"),
        ("{src}:/etc/motd:0640", "/etc/motd", 0o640, "root"),
        ("{src}:/etc/motd:4755:web", "/etc/motd", 0o4755, "web"),
        ("{src}:/etc/motd:600:web:www-data", "/etc/motd", 0o600, "web:www-data"),
        ("{src}:/etc/motd:600:1000:33", "/etc/motd", 0o600, "1000:33"),
        ("{src}:/srv/", "/srv/a:b", None, "root"),
    ],
)
def test_copy_takes_source_target_mode_and_owner(
    tmp_path: Path, text: str, target: str, mode: int | None, owner: str
) -> None:
    source = tmp_path / "a:b"
    source.write_text("x")
    copy = options.parse_copy(text.format(src=source))
    assert (copy.source, copy.target, copy.mode, copy.owner) == (source, target, mode, owner)


@pytest.mark.parametrize(
    "text",
    [
        "{src}",
        "{src}:relative",
        "{src}:/a/../../b",
        "{src}:/a\n",
        "{src}:/a:99",
        "{src}:/a:0644:",
        "{src}:/a:0644:web;rm",
        "{src}:/a:0644:-u",
        "/nonexistent:/a",
        "/dev/null:/a",
        ":/a",
    ],
)
def test_a_wrong_copy_is_refused(tmp_path: Path, text: str) -> None:
    source = tmp_path / "file"
    source.write_text("x")
    with pytest.raises(SpecError):
        options.parse_copy(text.format(src=source))


def test_a_mode_for_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="directory"):
        options.parse_copy(f"{tmp_path}:/srv:0755")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_written_text_ends_with_one_newline_and_is_otherwise_untouched(text: str) -> None:
    if text.startswith("@"):
        text = "@" + text
    written = options.parse_write(f"/etc/motd:{text}").content.decode()
    plain = text[1:] if text.startswith("@") else text
    assert written == (plain if not plain or plain.endswith("\n") else plain + "\n")


def test_write_from_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\0no newline")
    assert options.parse_write(f"/x:@{tmp_path}/f").content == b"\0no newline"
    with pytest.raises(SpecError, match="No such file"):
        options.parse_write("/x:@/nonexistent")


@pytest.mark.parametrize("text", ["motd:x", "/motd", "/../x:y", "/etc/:x", ""])
def test_a_wrong_write_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        options.parse_write(text)


@pytest.mark.parametrize("name", ["web'01", "a b", "-a", "a.", "a\n", "", "x" * 64, "a..b", "ä"])
def test_a_host_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SpecError):
        options.parse_hostname(name)


def test_an_ssh_key_is_for_root_unless_a_user_is_named(tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text("# mine\n" + make_key() + "\n")
    assert options.parse_ssh_key(f"{tmp_path}/id.pub").user == "root"
    assert options.parse_ssh_key(f"web:{tmp_path}/id.pub").user == "web"


def test_a_private_key_never_passes(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    with pytest.raises(SpecError, match="private key"):
        options.parse_ssh_key(f"{tmp_path}/id")


def test_secrets_in_contents_do_not_show_in_the_log_line() -> None:
    assert "hunter2" not in str(options.parse_write("/etc/secret:hunter2"))
    assert "hunter2" not in repr(options.parse_write("/etc/secret:hunter2"))


def test_removing_the_root_is_refused() -> None:
    for path in ("/", "//", "/./"):
        with pytest.raises(SpecError):
            options.parse_remove(path)


def test_keys_with_options_are_known_and_not_doubled() -> None:
    plain = make_key()
    optional = f'from="10.0.0.0/8",command="echo ssh-rsa AAAA" {plain}'
    key = parse_key(optional)
    assert key is not None and key.blob == parse_keys(plain)[0].blob
    assert add_keys(optional, parse_keys(plain)) == optional + "\n"
    assert add_keys("", parse_keys(plain + "\n" + plain)) == plain + "\n"


@given(st.text(max_size=200))
def test_adding_keys_keeps_what_was_there_and_is_idempotent(text: str) -> None:
    keys = parse_keys(make_key())
    once = add_keys(text, keys)
    assert once.startswith(text)
    assert add_keys(once, keys) == once


@pytest.mark.parametrize(
    "line",
    ["ssh-ed25519 AAAA", "ssh-ed25519", "x", make_key().replace("ssh-ed25519", "ssh-rsa", 1)],
)
def test_what_only_looks_like_a_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        parse_keys(line)


@given(st.text(max_size=300))
def test_any_passwd_and_group_is_read_without_a_crash(text: str) -> None:
    for account in parse_passwd(text).values():
        assert 0 <= account.uid < 2**32 - 1
    assert all(gid < 2**32 - 1 for gid in parse_group(text).values())


def test_the_first_account_of_a_name_counts_as_for_libc() -> None:
    found = parse_passwd("web:x:1000:100::/home/web:/bin/sh\nweb:x:0:0::/root:/bin/sh\n")
    assert found["web"].uid == 1000


HOSTS = "127.0.0.1 localhost old\n127.0.1.1 old.example old # mine\n192.0.2.1 db\n::1 localhost\n"


def names_of(text: str, address: str) -> list[str]:
    return [
        name
        for line in text.splitlines()
        if line.split()[:1] == [address]
        for name in line.partition("#")[0].split()[1:]
    ]


def test_the_new_name_takes_the_place_of_the_old_one() -> None:
    debian = edit_hosts(HOSTS, "old", "web.example.org", own_line=True)
    assert names_of(debian, "127.0.1.1") == ["web.example.org", "web"]
    assert names_of(debian, "127.0.0.1") == ["localhost"]
    assert "192.0.2.1 db\n" in debian and "old" not in debian
    other = edit_hosts("127.0.0.1 localhost old\n", "old", "web", own_line=False)
    assert names_of(other, "127.0.0.1") == ["localhost", "web"]


@given(st.text(st.characters(codec="ascii"), max_size=200))
def test_any_hosts_file_ends_up_naming_the_guest_once(text: str) -> None:
    edited = edit_hosts(text, "old", "web", own_line=True)
    assert names_of(edited, "127.0.1.1") == ["web"]
    assert edit_hosts(edited, "web", "web", own_line=True) == edited


@pytest.mark.parametrize(
    ("name", "magic", "given_", "expected"),
    [
        ("a.raw", b"", None, "raw"),
        ("a.img", b"", None, "raw"),
        ("a.qcow2", b"QFI\xfb", None, "qcow2"),
        ("a", b"QFI\xfb", None, "qcow2"),
        ("a", b"", "raw", "raw"),
        ("a.raw", b"QFI\xfb", "raw", "raw"),
        ("a.vhd", b"conectix", None, "vhd"),
    ],
)
def test_the_format_is_what_is_said_or_what_name_and_content_agree_on(
    tmp_path: Path, name: str, magic: bytes, given_: str | None, expected: str
) -> None:
    (tmp_path / name).write_bytes(magic.ljust(1024, b"\0"))
    assert named_format(tmp_path / name, given_) == expected


@pytest.mark.parametrize(("name", "magic"), [("a.raw", b"QFI\xfb"), ("a.qcow2", b""), ("a", b"")])
def test_a_raw_disk_that_claims_to_be_something_else_is_never_guessed(
    tmp_path: Path, name: str, magic: bytes
) -> None:
    (tmp_path / name).write_bytes(magic.ljust(1024, b"\0"))
    with pytest.raises(SpecError, match="--format"):
        named_format(tmp_path / name, None)


SPEC = """\
name: web01
os: {{suite: bookworm}}
install: {{method: debootstrap}}
identity:
  ssh_keys: ['{key}']
  users: [{{name: first.last, gecos: F, groups: [sudo], sudo: true, ssh_keys: [odd]}}]
files:
  - {{target: /etc/motd, source: motd, mode: "0640", owner: root:adm}}
  - {{target: /etc/issue, content: hello}}
scripts: [setup.sh]
"""


def spec_file(base: Path) -> SpecFile:
    (base / "web01.yaml").write_text(SPEC.format(key=make_key()))
    return load_spec(base / "web01.yaml")


def test_a_spec_becomes_changes(tmp_path: Path) -> None:
    file = spec_file(tmp_path)
    motd, issue = from_spec.file_changes(file)
    assert motd == changes.Copy(tmp_path / "motd", "/etc/motd", 0o640, "root:adm")
    assert issue == changes.Write("/etc/issue", b"hello", 0o644, "root:root")
    accounts: list[Any] = [*from_spec.account_changes(file.spec.identity, {"root": "$6$x"})]
    hash_, key, user, odd, rule = accounts
    assert hash_ == changes.SetHash("root", "$6$x") and "$6$x" not in f"{hash_} {hash_!r}"
    assert (key.user, [k.line for k in key.keys]) == ("root", [make_key()])
    assert user == changes.AddUser("first.last", "F", "/bin/bash", ("sudo",))
    assert (odd.user, [k.line for k in odd.keys]) == ("first.last", ["odd"])
    assert rule.target == "/etc/sudoers.d/imagekit-first+last"
    assert rule.content == b"first.last ALL=(ALL:ALL) NOPASSWD: ALL\n"
    (script,) = from_spec.script_changes(file, 1234)
    assert script.content == tmp_path / "setup.sh"
    assert script.environment == (("SOURCE_DATE_EPOCH", "1234"),)


def test_sources_that_are_missing_are_named_and_what_is_in_them_counts(tmp_path: Path) -> None:
    file = spec_file(tmp_path)
    for name, place in (("motd", "files"), ("setup.sh", "scripts")):
        with pytest.raises(SpecError) as caught:
            from_spec.require_sources(file)
        assert name in str(caught.value) and place in str(caught.value)
        (tmp_path / name).write_text("1")
    from_spec.require_sources(file)
    before = from_spec.digest_of_files(file), from_spec.digest_of_scripts(file)
    (tmp_path / "motd").write_text("2")
    (tmp_path / "setup.sh").write_text("2")
    assert before[0] != from_spec.digest_of_files(file)
    assert before[1] != from_spec.digest_of_scripts(file)


LINE = st.text(st.characters(exclude_characters="\n"), max_size=30)


@given(st.lists(LINE, max_size=6), st.sampled_from(sorted(("passwd", "group", "shadow"))))
def test_an_account_file_keeps_every_line_that_is_not_changed(lines: list[str], kind: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    count = {"passwd": 7, "group": 4, "shadow": 9}[kind]
    row = ["new", *("1" for _ in range(count - 1))]
    table = AccountTable(kind, text)
    assert table.text == text
    there = table.find("new") is not None
    table.put(row)
    after = table.text.split("\n")[:-1]
    assert table.find("new") == row
    assert len(after) == len(lines) + (not there)
    assert all(a == b or b.startswith("new:") for a, b in zip(lines, after, strict=False))
