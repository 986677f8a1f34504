"""Whether a DHCP server runs on this host, by the kernel's table of UDP sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekit.pypxeboot.dhcp_home import server_is_here

HEAD = (
    "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout\n"
)
LINE = "  {n}: {address} {peer} 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0\n"


def table(tmp_path: Path, *sockets: tuple[str, str]) -> Path:
    path = tmp_path / "udp"
    lines = [LINE.format(n=n, address=a, peer=p) for n, (a, p) in enumerate(sockets)]
    path.write_text(HEAD + "".join(lines))
    return path


@pytest.mark.parametrize("address", ["00000000:0043", "010200C0:0043"])
def test_a_listener_on_port_67_is_a_server(tmp_path: Path, address: str) -> None:
    assert server_is_here(table(tmp_path, ("00000000:0044", "0:0000"), (address, "0:0000")))


def test_a_client_of_port_67_is_none(tmp_path: Path) -> None:
    assert not server_is_here(table(tmp_path, ("010200C0:0044", "010200C0:0043")))


@pytest.mark.parametrize("text", ["", "\n\n", "one\n:0043\n"])
def test_a_table_that_is_none_names_no_server(tmp_path: Path, text: str) -> None:
    path = tmp_path / "udp"
    path.write_text(text)
    assert not server_is_here(path)
    assert not server_is_here(tmp_path / "absent")
