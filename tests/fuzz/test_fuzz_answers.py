"""Hostile values through every filter of answers, through our templates, and into server configs.

Read back by what reads them in the end (sh, PyYAML, shlex as pykickstart uses it), or by an oracle
written from its grammar: exactly the value, nothing beside it, or a refusal.
``IMAGEKIT_FUZZ_VALUES`` is the number of cases for each of the tests.
"""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import dnsmasq_reader
from pydantic import ValidationError
from ruamel.yaml import YAML

from imagekit.answers import quoting
from imagekit.answers.context import Context, target_of
from imagekit.answers.render import Kind, render
from imagekit.errors import SpecError
from imagekit.netboot import serve_config
from imagekit.spec.model import Spec

CASES = max(1, int(os.environ.get("IMAGEKIT_FUZZ_VALUES", "100")))
long_run = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

MARKS = [
    *"\\\"'`$#%;:,&|<>()[]{}!*?~=@ \t\n\r\0\x0b\x0c\x1b\x7f\x85\xa0\u2028\u2029\ufeff\u200b",
    *("\\\n", "\\\\", "\\'", "' ", " #", "\n#", "\n%", "\n%post\n", "\nd-i a/b string c", "$(x)"),
    *("${x}", "`x`", "{{ x }}", "{% x %}", ": ", "- ", "\n- ", "---", "...", "!!python/none x"),
    *("&a", "*a", "<<", "yes", "null", "1e3", "0x10", "😀", "\U0010ffff", "\ud83d", "\udc00"),
    *("é", "雪", "\\ud83d\\ude00", "\\U0001f600", "--x", "-x", "@x", "%x", ", ", ",,", '" ', "x"),
]
HOSTILE = st.lists(st.sampled_from(MARKS) | st.text(max_size=2), max_size=8).map("".join)


def taken(filter_name: str, value: object) -> str | None:
    """The filter's text, None where it refuses."""
    try:
        return quoting.FILTERS[filter_name](value)
    except SpecError as error:
        assert error.what
        assert error.where
        assert str(error).isprintable()
        return None
    except UnicodeEncodeError:
        # Base64 of half a character; no such text comes out of a file.
        assert any("\ud800" <= char <= "\udfff" for char in str(value))
        return None


def debconf(text: str) -> list[tuple[str, str]]:
    """Questions and values as debconf-set-selections(1) takes them from ``text``."""
    found = []
    for line in text.replace("\\\n", "").split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            words = line.split(None, 3)
            found.append((words[1], words[3] if len(words) > 3 else ""))
    return found


@long_run
@given(HOSTILE)
def test_preseed_and_kickstart_values_are_one_value(value: str) -> None:
    text = taken("preseed", value)
    if text is not None:
        read = debconf(f"d-i a/b string {text}\nd-i c/d string x\n")
        assert read == [("a/b", value), ("c/d", "x")]
    text = taken("kickstart", value)
    if text is not None:
        line = f"command --a={text} {text} --b"
        assert "\n" not in line
        assert shlex.split(line, comments=True) == ["command", f"--a={value}", value, "--b"]
    text = taken("word", value)
    if text is not None:
        assert text == value
        assert value.isascii()
        assert not set(value) & set(" \t\n\"'\\$`;&|<>(){}*?#!~")


@long_run
@given(st.recursive(HOSTILE, lambda x: st.lists(x, max_size=3) | st.dictionaries(HOSTILE, x)))
def test_yaml_values_are_that_value_to_every_parser(value: Any) -> None:
    text = taken("yaml", value)
    if text is None:
        return
    assert text.isascii()
    assert text.isprintable()
    document = f"a: {text}\nb: [{text}, {{c: {text}}}]\n"
    wanted = {"a": value, "b": [value, {"c": value}]}
    assert YAML(typ="safe", pure=True).load(document) == wanted
    pyyaml = pytest.importorskip("yaml")
    assert pyyaml.safe_load(document) == wanted


@long_run
@given(st.lists(HOSTILE, min_size=20, max_size=20))
def test_shell_words_are_that_word_to_sh(values: list[str]) -> None:
    pairs = [(value, taken("sh", value)) for value in values]
    words = [word for _, word in pairs if word is not None]
    script = f"printf '%s\\0' {' '.join(words)}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, timeout=20)
    wanted = [value for value, word in pairs if word is not None]
    assert done.stdout.decode().split("\0")[:-1] == (wanted or [""])
    for value in values:
        text = taken("base64", value)
        assert text is None or base64.b64decode(text, validate=True).decode() == value


def contexts(kind: Kind, value: str) -> tuple[Context, Context] | None:
    """A context with ``value`` wherever the spec takes it, and the same without; None without."""
    plain: dict[str, Any] = {
        "name": "web01",
        "os": {"suite": "bookworm"},
        "install": {"method": "iso", "iso": "/x.iso"},
        "disk": {"size": "8GiB"},
        "identity": {
            "users": [{"name": "ann", "gecos": "Ann", "ssh_keys": ["ssh-ed25519 AAAA x"]}],
            "ssh_keys": ["ssh-ed25519 AAAA x"],
        },
        "boot": {"cmdline": "quiet"},
    }
    base = Spec.model_validate(plain)
    spec = base
    for change in (
        {"identity": {**plain["identity"], "ssh_keys": [f"ssh-ed25519 AAAA {value}"]}},
        {"identity": {"users": [{**plain["identity"]["users"][0], "gecos": value}]}},
        {"boot": {"cmdline": f"quiet {value}"}},
    ):
        try:
            changed = Spec.model_validate({**plain, **change})
        except (ValidationError, SpecError):
            continue
        if "boot" in change:
            spec = spec.model_copy(update={"boot": changed.boot})
        else:
            old, new = spec.identity, changed.identity
            keys = new.ssh_keys or old.ssh_keys
            users = new.users if "users" in change["identity"] else old.users
            users = old.users if users[0].gecos == "Ann" else users
            identity = old.model_copy(update={"ssh_keys": keys, "users": users})
            spec = spec.model_copy(update={"identity": identity})
    if spec == base:
        return None
    target = target_of(kind, "RHEL9" if kind == "kickstart" else None, "bookworm", "debian")
    made = Context(spec, target, ("openssh-server",), {"root": "$6$a$b"}, None, "00:16:3e:00:00:01")
    return made, replace(made, spec=base)


@long_run
@given(HOSTILE, st.sampled_from(["preseed", "kickstart", "autoinstall"]))
def test_no_value_of_a_spec_adds_or_takes_an_answer(value: str, kind: Kind) -> None:
    made = contexts(kind, value)
    if made is None:
        return
    try:
        text = render(kind, made[0])
    except SpecError as error:
        assert error.where
        return
    plain = render(kind, made[1])
    if kind == "preseed":
        assert [q for q, _ in debconf(text)] == [q for q, _ in debconf(plain)]
    elif kind == "kickstart":
        assert [line.split(" ")[0] for line in text.split("\n") if line[:1].isalpha()] == [
            line.split(" ")[0] for line in plain.split("\n") if line[:1].isalpha()
        ]
        assert [line for line in text.split("\n") if line[:1] == "%"] == [
            line for line in plain.split("\n") if line[:1] == "%"
        ]
    else:
        found, other = (YAML(typ="safe", pure=True).load(t)["autoinstall"] for t in (text, plain))
        assert list(found) == list(other)
        assert len(found["late-commands"]) == len(other["late-commands"])
        spec = made[0].spec
        users = found["user-data"]["users"]
        assert users[0]["ssh_authorized_keys"] == spec.identity.ssh_keys
        assert users[1]["gecos"] == spec.identity.users[0].gecos


def service(root: str) -> serve_config.Service | None:
    try:
        return serve_config.Service(Path(root), "eth0", "192.0.2.1", "192.0.2.0/24", http_port=8080)
    except SpecError as error:
        assert str(error).isprintable() or "\n  hint: " in str(error)
        return None


@long_run
@given(HOSTILE)
def test_dnsmasq_serves_the_directory_that_was_named(value: str) -> None:
    made = service(f"/srv/{value}x")
    if made is None:
        return
    text = serve_config.dnsmasq_config(made, Path("/run/hosts"))
    data = text.encode("utf-8", "surrogateescape")
    plain = serve_config.Service(Path("/srv/x"), "eth0", "192.0.2.1", "192.0.2.0/24")
    lines = dnsmasq_reader.read(data)
    others = dnsmasq_reader.read(serve_config.dnsmasq_config(plain, Path("/run/hosts")).encode())
    assert dnsmasq_reader.tftp_roots(data) == [str(made.root / "tftp")]
    assert [name for name, _ in lines] == [name for name, _ in others]


@long_run
@given(HOSTILE)
def test_no_directory_adds_a_line_to_the_unit(value: str) -> None:
    made = service(f"/srv/{value}x")
    if made is None:
        return
    text = serve_config.systemd_unit(Path("/usr/bin/imagekit"), ["serve", str(made.root)], made)
    plain = serve_config.Service(Path("/srv/x"), "eth0", "192.0.2.1", "192.0.2.0/24")
    other = serve_config.systemd_unit(Path("/usr/bin/imagekit"), ["serve", "/srv/x"], plain)
    names = [line.partition("=")[0] for line in text.split("\n")]
    assert names == [line.partition("=")[0] for line in other.split("\n")]
    assert not any(line.endswith("\\") for line in text.split("\n"))
