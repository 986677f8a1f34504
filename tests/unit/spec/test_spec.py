"""Specs: what is accepted, what is refused, and that the message names the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from imagekit.errors import SpecError
from imagekit.guest.change_options import parse_copy
from imagekit.spec.load import load_spec
from imagekit.spec.model import File, User, json_schema
from imagekit.spec.values import UNITS, format_size, parse_mac, parse_size

FIVE_LINES = """\
name: web01
os: {distribution: debian, suite: bookworm}
install: {method: debootstrap, packages: [openssh-server]}
disk: {size: 2GiB, formats: [raw, qcow2, vhd]}
boot: {modes: [pv, pvh, hvm]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "guest.yaml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(write(tmp_path, text), overrides)
    return str(caught.value)


def test_five_lines_are_a_whole_guest(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, FIVE_LINES)).spec
    assert spec.disk.size == 2 << 30
    assert spec.memory == 1024
    assert spec.hostname == "web01"
    assert [n.bridge for n in spec.nics] == ["xenbr0"]
    assert spec.toolstacks == ["xl"]


@pytest.mark.parametrize(
    ("line", "field", "position"),
    [
        ("memory: lots", "memory", "6:1"),
        ("disk2: {}", "disk2", "6:1"),
        ('identity: {hostname: "a\\"b"}', "identity.hostname", "6:12"),
        ('identity: {hostname: "a\\nb"}', "identity.hostname", "6:12"),
        ("files: [{target: /a, source: 'x,y'}]", "files[0].source", "6:22"),
        ("files: [{target: /a/../../etc/x, content: x}]", "files[0].target", "6:10"),
        ("nics: [{mac: 01:00:5e:00:00:01}]", "nics[0].mac", "6:9"),
        ("memory: 99999999999999999999TiB", "memory", "6:1"),
        ("vcpus: 999999999999999999999999", "vcpus", "6:1"),
        ("nics: [{network: {addresses: [192.0.2.1]}}]", "nics[0].network.addresses[0]", "6:31"),
    ],
)
def test_a_wrong_value_is_refused_with_line_column_and_field(
    tmp_path: Path, line: str, field: str, position: str
) -> None:
    message = refused(tmp_path, FIVE_LINES + line + "\n")
    assert f"guest.yaml:{position} {field}" in message


@pytest.mark.parametrize(
    "name", ["123", "a b", "Domain-0", "a/b", "x" * 65, "", "a'b", "a\nb", "-a"]
)
def test_a_name_no_toolstack_takes_is_refused(tmp_path: Path, name: str) -> None:
    text = FIVE_LINES.replace("name: web01", f"name: {json.dumps(name)}")
    assert "guest.yaml:1:1 name" in refused(tmp_path, text)


def test_a_tab_is_told_with_its_line(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: web01\n\tos: x\n")
    assert "guest.yaml:2:1" in message
    assert "tab" in message


def test_a_key_named_twice_is_refused(tmp_path: Path) -> None:
    assert "guest.yaml:6" in refused(tmp_path, FIVE_LINES + "name: other\n")


def test_deep_nesting_and_huge_files_are_refused(tmp_path: Path) -> None:
    assert "guest.yaml" in refused(tmp_path, "name: " + "[" * 5000)
    assert "1 MiB" in refused(tmp_path, "#" * (1 << 20) + "\n\n")
    assert "UTF-8" in refused_bytes(tmp_path, b"name: \xff\xfe\n")


def refused_bytes(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "guest.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return str(caught.value)


def test_set_overrides_nested_fields_and_changes_the_digest(tmp_path: Path) -> None:
    path = write(tmp_path, FIVE_LINES)
    plain = load_spec(path)
    changed = load_spec(path, ["disk.size=4GiB", "identity.timezone=Europe/Berlin"])
    assert changed.spec.disk.size == 4 << 30
    assert changed.spec.identity.timezone == "Europe/Berlin"
    assert changed.sha256 != plain.sha256
    assert load_spec(path, ["memory=1024"]).sha256 == plain.sha256


def test_a_wrong_override_names_itself(tmp_path: Path) -> None:
    assert "--set" in refused(tmp_path, FIVE_LINES, ("disk",))
    assert "--set" in refused(tmp_path, FIVE_LINES, ("name.first=x",))


def test_the_proxy_does_not_enter_the_digest(tmp_path: Path) -> None:
    path = write(tmp_path, FIVE_LINES)
    secret = load_spec(path, ["os.proxy=http://u:hunter22@proxy.example:3128"])
    assert secret.sha256 == load_spec(path).sha256


def test_partitions_that_exceed_the_disk_are_refused(tmp_path: Path) -> None:
    text = FIVE_LINES.replace("size: 2GiB", "size: 1GiB, swap: 1GiB")
    assert "disk" in refused(tmp_path, text)


def test_hvm_without_a_partition_table_is_refused(tmp_path: Path) -> None:
    text = FIVE_LINES.replace("size: 2GiB", "size: 2GiB, table: none")
    assert "partition table" in refused(tmp_path, text)


def test_the_schema_describes_every_field_of_a_spec() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert {"name", "os", "install", "disk", "boot", "nics", "identity", "files"} <= set(
        schema["properties"]
    )


@given(st.integers(1, 1 << 40), st.sampled_from(sorted(UNITS)))
def test_sizes_mean_number_times_unit(number: int, unit: str) -> None:
    expected = number * UNITS[unit]
    if expected <= 64 << 40:
        assert parse_size(f"{number}{unit}") == expected
    else:
        with pytest.raises(ValueError, match="too large"):
            parse_size(f"{number}{unit}")


@given(st.integers(1, 1 << 44))
def test_a_formatted_size_reads_back_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=24))
def test_any_text_is_a_mac_or_refused(text: str) -> None:
    try:
        mac = parse_mac(text)
    except ValueError:
        return
    assert len(mac) == 17
    assert mac == mac.lower()


@given(st.text(max_size=200))
def test_no_text_crashes_the_loader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SpecError):
        load_spec(path)


@pytest.mark.parametrize("owner", ["first.last", "web:www-data", "1000:33", "host$", "3proxy:adm"])
def test_a_spec_and_inject_take_the_same_owners(owner: str, tmp_path: Path) -> None:
    file = File.model_validate({"target": "/etc/x", "content": "", "owner": owner})
    (tmp_path / "x").touch()
    assert parse_copy(f"{tmp_path}/x:/etc/x:0644:{owner}").owner == file.owner == owner


@pytest.mark.parametrize("owner", ["-u", "web;id", "web:", ":web", "a b", "root:\n", ".x", "Ä"])
def test_a_spec_and_inject_refuse_the_same_owners(owner: str, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ValidationError):
        File.model_validate({"target": "/etc/x", "content": "", "owner": owner})
    with pytest.raises(SpecError):
        parse_copy(f"{tmp_path}/x:/etc/x:0644:{owner}")


def test_a_rule_of_sudo_lies_where_sudo_reads_it() -> None:
    """sudoers(5): a file whose name has a dot is skipped."""
    paths = [User(name=name).sudoers_path for name in ("first.last", "first_last", "ann")]
    assert len(set(paths)) == 3 and not any("." in p.rpartition("/")[2] for p in paths)
