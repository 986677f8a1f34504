"""Answers files: what values, templates and releases do to them, and what other parsers read."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from imagekit.answers import quoting
from imagekit.answers.context import Context, mirror_of, target_of
from imagekit.answers.render import Kind, render, shipped_template
from imagekit.answers.validate import read_preseed, validate
from imagekit.errors import SpecError
from imagekit.spec.model import Spec

HOSTILE_HASH = "$6$rounds=5000$ab'c\"d`e$x/y.;|&{{ 7*7 }}"
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc"]))


def make_spec(**changes: Any) -> Spec:
    value: dict[str, Any] = {
        "name": "web01",
        "os": {"suite": "bookworm"},
        "install": {"method": "iso", "iso": "/x.iso"},
        "disk": {"size": "8GiB", "swap": "512MiB"},
        "identity": {
            "users": [{"name": "ann", "gecos": "Ann O'Neil $HOME `id`", "sudo": True}],
            "ssh_keys": ['ssh-ed25519 AAAA r\'s "key" $(id)'],
        },
    }
    return Spec.model_validate({**value, **changes})


def context(kind: Kind = "preseed", release: str | None = None, **changes: Any) -> Context:
    spec = make_spec(**changes)
    target = target_of(kind, release, spec.os.suite, spec.os.distribution)
    hashes = {"root": HOSTILE_HASH, "ann": "$y$j9T$abc"}
    return Context(spec, target, ("openssh-server",), hashes, None, "00:16:3e:00:00:01")


def test_a_password_hash_with_dollars_and_quotes_reaches_the_preseed_unchanged() -> None:
    answers = {a.question: a for a in read_preseed(render("preseed", context()))}
    assert answers["passwd/root-password-crypted"].value == HOSTILE_HASH


def test_a_password_hash_with_dollars_and_quotes_is_one_word_of_the_kickstart() -> None:
    text = render("kickstart", context("kickstart", "RHEL9"))
    (line,) = [x for x in text.splitlines() if x.startswith("rootpw")]
    assert shlex.split(line, comments=True) == ["rootpw", "--iscrypted", HOSTILE_HASH]


def test_a_password_hash_with_dollars_and_quotes_is_one_yaml_string() -> None:
    value = YAML(typ="safe", pure=True).load(render("autoinstall", context("autoinstall")))
    root = value["autoinstall"]["user-data"]["users"][0]
    assert root["hashed_passwd"] == HOSTILE_HASH


def test_the_installers_shell_writes_keys_and_rules_literally(tmp_path: Path) -> None:
    answers = {a.question: a for a in read_preseed(render("preseed", context()))}
    script = answers["preseed/late_command"].value.replace("/target/", f"{tmp_path}/")
    script = script.replace(">/dev/console", ">/dev/null")
    for name in ("etc/initramfs-tools", "etc/default", "etc/sudoers.d", "root/.ssh"):
        (tmp_path / name).mkdir(parents=True)
    script = script.replace("in-target", "in_target")
    stub = 'in_target() { printf "%s\\n" "$*" >> "$0.log"; }; mkdir() { :; };'
    subprocess.run(["sh", "-ec", stub + script, str(tmp_path / "late")], check=True)
    keys = (tmp_path / "root/.ssh/authorized_keys").read_text()
    assert keys == 'ssh-ed25519 AAAA r\'s "key" $(id)\n'
    assert (tmp_path / "etc/sudoers.d/imagekit-ann").read_text() == "ann ALL=(ALL:ALL) ALL\n"
    assert "xen-blkfront\nxen-netfront\n" in (tmp_path / "etc/initramfs-tools/modules").read_text()


@pytest.mark.parametrize("name", ["a\nd-i preseed/late_command string reboot", "a;reboot", "a b"])
def test_a_hostname_cannot_carry_another_answer(name: str) -> None:
    with pytest.raises(ValidationError):
        make_spec(identity={"hostname": name})


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00", "a\u2028b", " a", "a\\"])
def test_a_value_that_would_end_or_change_its_line_is_refused(value: str) -> None:
    with pytest.raises(SpecError):
        quoting.preseed(value)


@given(TEXT)
def test_kickstart_words_are_read_back_by_shlex(value: str) -> None:
    if value.isprintable():
        assert (
            shlex.split(f"cmd --x={quoting.kickstart(value)}", comments=True)[1] == f"--x={value}"
        )


@settings(max_examples=30)
@given(st.lists(TEXT.filter(str.isprintable), min_size=1, max_size=20))
def test_shell_words_are_read_back_by_the_shell(values: list[str]) -> None:
    words = " ".join(quoting.shell(v) for v in values)
    done = subprocess.run(["sh", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == values


@given(st.text() | st.lists(st.text()) | st.booleans() | st.integers())
def test_yaml_values_are_read_back_by_a_yaml_parser(value: Any) -> None:
    text = quoting.yaml(value)
    assert text.isascii()
    assert text.isprintable()
    assert YAML(typ="safe", pure=True).load(f"key: {text}\n")["key"] == value


def test_an_undefined_variable_is_an_error_with_the_templates_line(tmp_path: Path) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text("d-i a/b string x\nd-i a/c string {{ hostnam }}\n")
    with pytest.raises(SpecError) as caught:
        render("preseed", context(), template)
    assert f"{template}:2" in str(caught.value) and "hostnam" in str(caught.value)


def test_a_refused_value_is_an_error_with_the_templates_line(tmp_path: Path) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text('# one\n# two\nd-i a/c string {{ "x\\ny" | preseed }}\n')
    with pytest.raises(SpecError) as caught:
        render("preseed", context(), template)
    assert f"{template}:3" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{% for x in %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 1 / 0 }}",
        "{% for a in range(99999999) %}x{% endfor %}",
        "{{ hashes.pop('root') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_broken_or_escaping_template_is_an_error_of_the_template(
    tmp_path: Path, text: str
) -> None:
    template = tmp_path / "mine.j2"
    template.write_text(text)
    with pytest.raises(SpecError) as caught:
        render("preseed", context(), template)
    assert str(template) in str(caught.value)


def test_a_user_whose_name_the_installer_refuses_is_made_after_it() -> None:
    users = [{"name": "first.last", "sudo": True}, {"name": "ann"}]
    text = render("preseed", context(identity={"users": users}))
    questions = {a.question: a.value for a in read_preseed(text)}
    assert questions["passwd/make-user"] == "false" and "passwd/username" not in questions
    late = questions["preseed/late_command"]
    assert late.count("useradd -m") == 2 and "/etc/sudoers.d/imagekit-first+last ;" in late
    known = {a.question: a.value for a in read_preseed(render("preseed", context()))}
    assert known["passwd/username"] == "ann"
    assert "useradd" not in known["preseed/late_command"]


def test_a_users_template_replaces_ours_and_sees_the_spec(tmp_path: Path) -> None:
    template = tmp_path / "mine.ks.j2"
    template.write_text("# {{ spec.name }} {{ target.name }} {{ volumes | length }}\n")
    assert render("kickstart", context("kickstart", "8"), template) == "# web01 RHEL8 2\n"


@pytest.mark.parametrize(("locale", "asked"), [("C.UTF-8", True), ("de_DE.UTF-8", False)])
def test_no_country_is_left_open(locale: str, asked: bool) -> None:
    text = render("preseed", context(identity={"locale": locale}))
    found = {answer.question: answer.value for answer in read_preseed(text)}
    assert found["debian-installer/locale"] == locale
    assert ("debian-installer/country" in found) == asked
    assert ("debian-installer/language" in found) == asked


def test_preseed_lines_are_joined_as_the_installer_joins_them() -> None:
    text = "d-i a/b string one \\\n# left out\n   two \\\n\n three\nd-i c/d boolean true\n"
    answers = read_preseed(text)
    assert [(a.line, a.question, a.value) for a in answers] == [
        (1, "a/b", "one two three"),
        (6, "c/d", "true"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("d-i netcfg/get_hostnam string x", "netcfg/get_hostname"),
        ("d-i passwd/make-user string maybe", "boolean"),
        ("d-i passwd/make-user boolean maybe", "true or false"),
        ("d-i netcfg/get_hostname strin x", "no type"),
        ("d-i preseed/early_command string if true; then", "shell"),
        ("d-i", "owner question type"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_line(line: str, message: str) -> None:
    target = target_of("preseed", None, "bookworm", "debian")
    with pytest.raises(SpecError) as caught:
        validate("preseed", f"# one\n{line}\n", target=target, where="mine")
    assert message in str(caught.value) and "mine, line 2" in str(caught.value)


def test_a_locked_debconf_does_not_keep_answers_from_being_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = [tmp_path / name for name in ("config.dat", "templates.dat")]
    stanzas = [f"Name: {d.stem}\nDriver: File\nFilename: {d}\n" for d in databases]
    config = tmp_path / "debconf.conf"
    config.write_text("\n".join(["Config: config\nTemplates: templates\n", *stanzas]))
    monkeypatch.setenv("DEBCONF_SYSTEMRC", str(config))
    check = ["debconf-set-selections", "--checkonly"]
    with contextlib.ExitStack() as stack:
        for database in databases:
            fcntl.flock(stack.enter_context(database.open("wb")), fcntl.LOCK_EX)
        assert subprocess.run(check, input=b"", check=False).returncode == 1
        target = target_of("preseed", None, "bookworm", "debian")
        validate("preseed", "d-i mirror/country string manual\n", target=target, where="mine")


def test_an_unknown_question_of_the_installer_is_a_warning() -> None:
    target = target_of("preseed", None, "bookworm", "debian")
    text = "d-i site/own-component string x\nmypkg mypkg/question string y\n"
    warnings = validate("preseed", text, target=target, where="mine")
    assert len(warnings) == 1 and "site/own-component" in warnings[0]


@pytest.mark.parametrize("network", ["dhcp", "static", "ipv6"])
@pytest.mark.parametrize("disk", [{}, {"lvm": True, "filesystem": "xfs"}, {"table": "mbr"}])
@pytest.mark.parametrize("suite", ["jessie", "stretch", "buster", "bullseye", "bookworm", "trixie"])
def test_our_preseed_validates(suite: str, disk: dict[str, Any], network: str) -> None:
    nets: dict[str, Any] = {
        "dhcp": "dhcp",
        "static": {"addresses": ["192.0.2.10/24"], "gateways": ["192.0.2.1"]},
        "ipv6": {"addresses": ["2001:db8::2/64"], "dns": ["2001:db8::53"]},
    }
    made = context(
        os={"suite": suite},
        disk={"size": "8GiB", "swap": "1GiB", **disk},
        nics=[{"network": nets[network]}],
    )
    text = render("preseed", made)
    if suite == "bookworm":
        where = str(shipped_template("preseed"))
        assert validate("preseed", text, target=made.target, where=where) == []
    answers = {a.question: a.value for a in read_preseed(text)}
    assert ("netcfg/get_ipaddress" in answers) == (network != "dhcp")
    assert answers["partman-auto/method"] == ("lvm" if disk.get("lvm") else "regular")


@pytest.mark.parametrize(
    ("given_name", "spelled"),
    [
        ("9", "RHEL9"),
        ("RHEL-10", "RHEL10"),
        ("el7.9", "RHEL7"),
        ("F40", "F40"),
        ("Fedora42", "F42"),
    ],
)
def test_kickstart_releases_are_recognised(given_name: str, spelled: str) -> None:
    assert target_of("kickstart", given_name, "", "rhel").name == spelled


def test_a_mirror_with_a_password_is_not_put_into_answers() -> None:
    with pytest.raises(SpecError) as caught:
        mirror_of("http://user:secret@mirror.example/debian")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:secret@mirror.example/debian",
        "http://secret@mirror.example/debian",
        "https://:secret@mirror.example/",
        "http://user:secret@/debian",
    ],
)
def test_no_form_of_a_mirrors_password_is_shown(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        mirror_of(url)
    assert "secret" not in str(caught.value)
    assert caught.value.where == "os.mirror"


@pytest.mark.parametrize("kind", ["preseed", "kickstart", "autoinstall"])
@pytest.mark.parametrize(
    "user", ["user:secret", "secret", ":secret", "us%40er:secret", "a:b@secret"]
)
def test_a_proxy_with_a_password_is_not_put_into_answers(kind: Kind, user: str) -> None:
    found = context(kind, "RHEL9" if kind == "kickstart" else None)
    proxy = f"http://{user}@proxy.example:3128/"
    secret = replace(found, spec=with_proxy(found.spec, proxy))
    with pytest.raises(SpecError, match="proxy with a password") as caught:
        render(kind, secret)
    assert "secret" not in str(caught.value)
    assert "os.proxy" in str(caught.value)
    plain = replace(found, spec=with_proxy(found.spec, "http://proxy.example:3128/"))
    assert "proxy.example:3128" in render(kind, plain) or kind == "kickstart"


def with_proxy(spec: Spec, proxy: str) -> Spec:
    return spec.model_copy(update={"os": spec.os.model_copy(update={"proxy": proxy})})


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\udc00\ud83d", "\ud83d\ude00"])
def test_half_a_character_is_refused_in_yaml(text: str) -> None:
    with pytest.raises(SpecError, match="surrogate"):
        quoting.yaml({"key": [text]})


@pytest.mark.parametrize(
    "text", ["\U0001f600", "\\\U0001f600", "\\ud83d\\ude00", "\U0010fffd\x7f\x85\ufeff", '"\\"']
)
def test_characters_beyond_the_first_plane_reach_pyyaml_whole(text: str) -> None:
    pyyaml = pytest.importorskip("yaml")
    assert pyyaml.safe_load(f"key: {quoting.yaml([text])}") == {"key": [text]}
