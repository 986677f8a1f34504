"""The real systemd-networkd of this host, alone in a network namespace with cards of ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path("/lib/systemd/systemd-networkd")

_SCRIPT = r"""
set -e
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /usr/lib/systemd/network
mkdir -p /etc/systemd/network /run/udev/data /run/systemd/netif/links /run/systemd/netif/leases
chmod -R a+rwX /run/systemd
mount --bind "$1" /etc/systemd/network
ip link set lo up
for card in $2; do
    name=${card%%,*}; rest=${card#*,}; mac=${rest%%,*}; path=${rest#*,}
    ip link add "$name" address "$mac" type veth peer name "p$name"
    ip link set "p$name" up
    # What udev's database says of a card; networkd waits for it.
    printf 'I:1\nE:ID_PATH=%s\n' "$path" >"/run/udev/data/n$(cat "/sys/class/net/$name/ifindex")"
    printf 'I:1\n' >"/run/udev/data/n$(cat "/sys/class/net/p$name/ifindex")"
done
printf 'I:1\n' >"/run/udev/data/n$(cat /sys/class/net/lo/ifindex)"
SYSTEMD_LOG_TARGET=console "$3" 2>"$4" &
child=$!
trap 'kill $child' EXIT
tries=0
until [ $tries -ge 40 ] || { ip route; ip -6 route show default; } | grep -q "$5"; do
    sleep 0.25
    tries=$((tries + 1))
done
ip -j address >"$4.addresses"
ip -j route >"$4.routes"
ip -j -6 route >>"$4.routes"
"""


@dataclass(frozen=True)
class Card:
    """A network card: its interface's name, MAC address and udev's ID_PATH."""

    name: str
    mac: str
    path: str


@dataclass(frozen=True)
class Result:
    """Global addresses by interface; (destination, gateway, interface) of routes; the log."""

    addresses: Mapping[str, set[str]]
    routes: set[tuple[str, str, str]]
    log: str


def configured(files: Mapping[str, str], cards: list[Card], tmp: Path, until: str) -> Result:
    """What networkd makes of ``files`` (/etc/systemd/network) once a route matches ``until``.

    It waits for 10 s at most; needs root.
    """
    directory, log = tmp / "network", tmp / "log"
    directory.mkdir()
    directory.chmod(0o755)
    for name, text in files.items():
        (directory / name).write_text(text)
    words = " ".join(f"{card.name},{card.mac},{card.path}" for card in cards)
    subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", _SCRIPT, "sh", directory, words, PROGRAM, log, until],
        check=True,
        capture_output=True,
        timeout=60,
    )
    found: list[dict[str, Any]] = json.loads((tmp / "log.addresses").read_text())
    addresses = {
        link["ifname"]: {
            f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"
        }
        for link in found
    }
    routes = set()
    for line in (tmp / "log.routes").read_text().splitlines():
        for route in json.loads(line):
            routes.add((route["dst"], route.get("gateway", ""), route["dev"]))
    return Result(addresses, routes, log.read_text())
