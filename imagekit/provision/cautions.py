"""What is possible for guests that are to be made, and probably not meant."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagekit.provision.golden import Golden
from imagekit.provision.request import GuestRequest

CAPABILITIES = Path("/proc/xen/capabilities")
"""Holds "control_d" in dom0 (Linux, drivers/xen/xenfs/super.c)."""
INTERFACES = Path("/sys/class/net")
SEED_READERS = {"cloud-init", "cloud-init-base", "tiny-cloud"}


def cautions(requests: Sequence[GuestRequest], golden: Golden, *, seed: bool) -> list[str]:
    """A sentence each, for making ``requests`` from ``golden``; ``seed`` as ``--seed``."""
    found = [*_seed(golden)] if seed else []
    found += _bridges(requests, golden)
    for request in requests:
        found += _gateways(request)
    return found


def _seed(golden: Golden) -> Iterator[str]:
    if golden.packages is not None and not SEED_READERS & golden.packages:
        yield (
            "--seed: the golden image has no cloud-init, which reads the seed: the guest will not "
            "have its own host name, addresses and keys. Add cloud-init to install.packages of its "
            "spec and build again, or leave out --seed"
        )


def _bridges(requests: Sequence[GuestRequest], golden: Golden) -> Iterator[str]:
    try:
        in_dom0 = "control_d" in CAPABILITIES.read_text()
    except OSError:
        return
    if not in_dom0:
        return
    wanted = {request.bridge or nic.bridge for request in requests for nic in golden.facts.nics}
    for bridge in sorted(name for name in wanted if name):
        # vif-openvswitch takes NAME.TAG:TRUNK; an interface may have a dot in its name, too.
        plain = bridge.partition(":")[0]
        if not {plain, plain.rpartition(".")[0]} & {path.name for path in INTERFACES.iterdir()}:
            yield f"the bridge {bridge} does not exist on this host: no guest on it will start"


def _gateways(request: GuestRequest) -> Iterator[str]:
    nets = [ipaddress.ip_interface(text).network for text in request.ip]
    for text in request.gateway:
        gateway = ipaddress.ip_address(text)
        near = [net for net in nets if net.version == gateway.version]
        alone = all(net.num_addresses == 1 for net in near)
        if gateway.is_link_local or any(gateway in net for net in near) or (near and alone):
            continue
        said = ", ".join(map(str, near)) or f"no IPv{gateway.version} address is given for it"
        yield f"{request.name}: the gateway {text} is outside the guest's network ({said})"
