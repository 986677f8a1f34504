"""The iPXE subset: what it reads, and that it refuses the rest by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import ImagekitError, SpecError
from imagekit.pypxeboot import ipxe
from imagekit.pypxeboot.entry import BootEntry, LocalBoot

MAC = bytes.fromhex("00163e102036")
SETTINGS = ipxe.machine_settings(
    mac=MAC, address="192.0.2.5", netmask="255.255.255.0", server="192.0.2.1", uuid="6f1c-x"
)


def kernel_of(found: BootEntry | LocalBoot) -> BootEntry:
    assert isinstance(found, BootEntry)
    return found


def nothing(name: str) -> str:
    """A server that has no file."""
    raise KeyError(name)


def run(body: str, load: Callable[[str], str] | None = None) -> BootEntry | LocalBoot:
    return ipxe.run("#!ipxe\n" + body, SETTINGS, load or nothing, where="boot.ipxe")


def test_kernel_initrds_and_arguments() -> None:
    found = run(
        "dhcp\nset base http://192.0.2.1/deb\nkernel --name vmlinuz ${base}/linux auto=true \\\n"
        "  console=hvc0 mac=${net0/mac:hexhyp} raw=${mac:hexraw} ip=${net0/ip}\n"
        "initrd ${base}/a\ninitrd -n second ${base}/b\nboot\n"
    )
    assert isinstance(found, BootEntry)
    assert found.kernel == "http://192.0.2.1/deb/linux"
    assert found.initrds == ("http://192.0.2.1/deb/a", "http://192.0.2.1/deb/b")
    assert found.args == (
        "auto=true console=hvc0 mac=00-16-3e-10-20-36 raw=00163e102036 ip=192.0.2.5"
    )


def test_imgargs_replaces_the_arguments() -> None:
    assert kernel_of(run("kernel k a b\nimgargs k c d\nboot")).args == "c d"


def test_boot_with_a_uri() -> None:
    assert run("initrd i\nboot k x y") == BootEntry("boot.ipxe:3", "k", ("i",), "x y")


@pytest.mark.parametrize(
    "body",
    [
        "exit",
        "exit 1",
        "sanboot",
        "sanboot --no-describe --drive 0x80",
        "sanboot -n -d 0x80",
        "",
        "echo hi",
    ],
)
def test_local_boot(body: str) -> None:
    assert isinstance(run(body), LocalBoot)


def test_chain_keeps_settings_and_is_bounded() -> None:
    scripts = {"x": "#!ipxe\nkernel k ${a}\nboot\n"}
    assert kernel_of(run("set a 1\nchain x", scripts.__getitem__)).args == "1"
    with pytest.raises(SpecError, match="scripts chained"):
        run("chain x", lambda _: "#!ipxe\nchain x\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("goto x", "'goto'"),
        ("chain x || exit", "conditions"),
        ("menu Title", "'menu'"),
        ("shell", "'shell'"),
        ("sanboot iscsi:192.0.2.1::::iqn", "'sanboot'"),
        ("kernel ${nothing}/k", "no value"),
        ("kernel ${a:b}/k", "not understood"),
        ("boot", "without a kernel"),
        ("kernel", "without a file"),
        ("kernel k", "never boots"),
        ("initrd x\n" * 20, "more than 16"),
    ],
)
def test_everything_else_is_an_error_with_the_line(body: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        run(body)
    assert str(caught.value.where).startswith("boot.ipxe:")


def test_settings_that_grow_without_end_are_stopped() -> None:
    body = "set a xxxxxxxxxxxxxxxx\n" + "set a ${a}${a}\n" * 40
    with pytest.raises(SpecError, match="more than"):
        run(body)
    with pytest.raises(SpecError, match="settings"):
        run("".join(f"set v{n} 1\n" for n in range(1000)))


def test_a_web_page_is_no_script() -> None:
    with pytest.raises(SpecError, match="no iPXE script"):
        ipxe.run("<html>", {}, nothing, where="x")


PIECES = st.sampled_from(
    [
        "set",
        "kernel",
        "initrd",
        "imgargs",
        "boot",
        "chain",
        "exit",
        "sanboot",
        "${mac}",
        "${net0/ip}",
        "${",
        "}",
        "${x}",
        "\\",
        "--name",
        "-n",
        "a",
        "b",
        "||",
        "#",
        ":x",
        "clear",
        "imgfree",
    ]
)


@given(st.lists(st.lists(PIECES | st.text(max_size=10), max_size=6).map(" ".join), max_size=25))
def test_any_script_gives_an_answer_or_a_clear_error(lines: list[str]) -> None:
    try:
        found = run("\n".join(lines), lambda _: "#!ipxe\nkernel k\nboot\n")
    except ImagekitError as error:
        assert error.what
    else:
        assert isinstance(found, LocalBoot) or found.kernel
