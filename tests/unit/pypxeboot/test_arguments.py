"""Command lines of the toolstacks, profiles, and the three output formats."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import HostError, SpecError
from imagekit.pypxeboot import arguments, handover, profile

MAC = "00:16:3e:10:20:36"


def parse(*words: str, tmp: str = "/tmp") -> arguments.Invocation:
    return arguments.parse([f"--output-directory={tmp}", *words])


def test_libxl_order_and_any_other() -> None:
    words = ["--args=ro quiet", "--output=/x", "--output-format=simple0", f"--mac={MAC}", "/dev/d"]
    first = parse(*words)
    assert (first.args, first.output, first.disk) == ("ro quiet", "/x", "/dev/d")
    again = parse(words[4], *words[:4])
    assert again == first


def test_packed_element_is_taken_apart_and_the_toolstacks_are_not() -> None:
    found = parse("--args=a --mac=zz b", f"--mac={MAC} --interface='xen br0'", "/dev/with blank")
    assert found.args == "a --mac=zz b"
    assert found.settings.interface == "xen br0"
    assert found.disk == "/dev/with blank"


@pytest.mark.parametrize(
    "words",
    [
        [f"mac={MAC},bridge=xenbr0"],
        [f"mac={MAC},", "bridge=xenbr0"],
        [f"mac={MAC}, bridge=xenbr0, script=vif-bridge"],
        [f"mac={MAC.upper()}", "--interface=xenbr0"],
        [f"ip=192.0.2.9,mac={MAC},bridge=xenbr0"],
    ],
)
def test_vif_strings_of_xm(words: list[str]) -> None:
    found = parse(*words, "/disk")
    assert found.settings.mac.lower() == MAC
    assert found.settings.interface == "xenbr0"
    assert found.disk == "/disk"


@pytest.mark.parametrize(
    "words",
    [
        ["/disk"],
        ["--mac=01:00:5e:00:00:01"],
        ["--mac=00:16:3e"],
        [f"--mac={MAC}", "mac=00:16:3e:00:00:01"],
        [f"--mac={MAC}", "--nonsense"],
        [f"--mac={MAC}", "--output-format=yaml"],
        [f"--mac={MAC}", "--dhcp=maybe"],
        [f"--mac={MAC}", "--dhcp=none"],
        [f"--mac={MAC}", "--timeout=0"],
        [f"--mac={MAC}", "--timeout=soon"],
        [f"--mac={MAC}", "--runas=0"],
        [f"--mac={MAC}", "--uuid=x"],
        [f"--mac={MAC}", "--kernel-sha256=ff"],
        [f"--mac={MAC}", "--next-server=a_b"],
        [f"--mac={MAC}", "--dhcp-server=127.0.0.1"],
        [f"--mac={MAC} 'unbalanced", "/disk"],
        [f"--mac={MAC}", "/disk", "/other"],
    ],
)
def test_nonsense_is_refused(words: list[str]) -> None:
    with pytest.raises(SpecError):
        parse(*words)


def test_profile_and_arguments_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        f'[a]\nmac = "{MAC}"\nnext-server = "192.0.2.1"\ndhcp_server = "192.0.2.3"\ntimeout = 9\n'
    )
    found = parse(f"--profile-file={path} --profile=a", "--timeout=11", "/disk").settings
    assert (found.mac, found.next_server, found.dhcp_server) == (MAC, "192.0.2.1", ("192.0.2.3",))
    assert found.timeout == 11


def test_mac_that_contradicts_the_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f'[a]\nmac = "{MAC}"\n')
    with pytest.raises(SpecError, match="not the profile's"):
        parse(f"--profile-file={path}", "--profile=a", "--mac=00:16:3e:00:00:99", "/d")


@pytest.mark.parametrize(
    "text",
    [
        "[b]\n",
        "[a]\nmcc = 1\n",
        "[a]\nmac = 1\n",
        "[a]\nallow_host = [1]\n",
        "a = 1\n",
        "[",
        "\udcff",
        "[a]\ntimeout = true\n",
    ],
)
def test_bad_profile_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(SpecError):
        profile.load_profile("a", path)
    with pytest.raises(SpecError):
        profile.load_profile("a", tmp_path / "missing")


PLAIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_characters="\x7f"))


@given(PLAIN, st.booleans())
def test_formats_can_be_read_back(args: str, with_ramdisk: bool) -> None:
    result = handover.Result(Path("/k"), Path("/r") if with_ramdisk else None, args)
    pairs = [("kernel", "/k")] + [("ramdisk", "/r")] * with_ramdisk + [("args", args)] * bool(args)
    assert handover.render(result, "simple0").split(b"\0") == [
        *(f"{key} {value}".encode() for key, value in pairs), b"", b"",
    ]  # fmt: skip
    assert handover.render(result, "simple").split(b"\n") == [
        *(f"{key} {value}".encode() for key, value in pairs), b"", b"",
    ]  # fmt: skip
    sxp = handover.render(result, "sxp").decode()
    read = re.findall(r"\((kernel|ramdisk|args) ('(?:[^'\\]|\\.)*')\)", sxp)
    assert sxp == "linux " + "".join(f"({key} {value})" for key, value in read)
    assert [(key, ast.literal_eval(value)) for key, value in read] == pairs


@pytest.mark.parametrize("args", ["a\nb", "a\0b", "a\x1b[m", "x" * 8200, "é" * 4096])
def test_what_a_format_cannot_carry_is_refused(args: str) -> None:
    for form in handover.FORMATS:
        with pytest.raises(SpecError):
            handover.render(handover.Result(Path("/k"), None, args), form)


def test_output_file_of_our_own_making_vanishes_when_nothing_was_written(tmp_path: Path) -> None:
    made = handover.Output(str(tmp_path / "new"))
    made.close()
    assert list(tmp_path.iterdir()) == []
    made = handover.Output(str(tmp_path / "new"))
    made.write(b"x")
    made.close()
    assert (tmp_path / "new").read_bytes() == b"x"


def test_existing_output_is_replaced_only_by_a_result(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old and long")
    made = handover.Output(str(path))
    made.close()
    assert path.read_bytes() == b"old and long"
    made = handover.Output(str(path))
    made.write(b"new")
    made.close()
    assert path.read_bytes() == b"new"


def test_fifo_without_a_reader_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "FIFO_SECONDS", 0.1)
    os.mkfifo(tmp_path / "f")
    with pytest.raises(HostError):
        handover.Output(str(tmp_path / "f"))


def test_fresh_files_are_deleted_unless_kept(tmp_path: Path) -> None:
    with handover.fresh_files(tmp_path) as files:
        names = []
        for _ in range(3):
            fd, path = files.create("boot_kernel.")
            os.close(fd)
            names.append(path)
    assert len(set(names)) == 3
    assert list(tmp_path.iterdir()) == []
    with handover.fresh_files(tmp_path) as files:
        os.close(files.create("boot_kernel.")[0])
        files.keep()
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(SpecError), handover.fresh_files(tmp_path / "none"):
        pass
