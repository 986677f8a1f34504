"""A NoCloud seed disk: identity for guests with cloud-init, without opening their image.

Source: cloud-init documentation, "NoCloud": a volume labelled CIDATA with meta-data, user-data and
network-config (version 2).
"""

from __future__ import annotations

import io
from pathlib import Path

import pycdlib

from imagekit.guest.changes import SshKey
from imagekit.guest.network.netplan import ethernets
from imagekit.guest.network.state import NetworkState
from imagekit.provision.identity import vifs_of
from imagekit.provision.request import GuestRequest
from imagekit.spec.yamltext import yaml_flow

JOLIET = 3


def write_seed(request: GuestRequest, keys: tuple[SshKey, ...], nics: int, target: Path) -> None:
    """Write the seed of ``request`` as an ISO 9660 image into the existing empty file ``target``.

    YAML is written in its flow style, in which every value is quoted.
    """
    name = request.hostname or request.name
    meta = {"instance-id": request.domain_uuid, "local-hostname": name}
    user: dict[str, object] = {"hostname": name.partition(".")[0], "growpart": {"mode": "auto"}}
    if "." in name:
        user["fqdn"] = name
    lines = [k.line for change in keys for k in change.keys]
    if lines:
        user["ssh_authorized_keys"] = lines
    files = {
        "meta-data": yaml_flow(meta),
        "user-data": "#cloud-config\n" + yaml_flow(user),
        "network-config": yaml_flow(network_config(request, nics)),
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=JOLIET, joliet=JOLIET, vol_ident="CIDATA", rock_ridge="1.09")
    for index, (file, text) in enumerate(files.items()):
        data = f"{text}\n".encode()
        iso.add_fp(
            io.BytesIO(data),
            len(data),
            f"/FILE{index}.;1",
            rr_name=file,
            joliet_path=f"/{file}",
        )
    iso.write(str(target))
    iso.close()


def network_config(request: GuestRequest, nics: int) -> dict[str, object]:
    """network-config version 2: the addresses asked for on the first NIC, DHCP on the others."""
    state = NetworkState(tuple(vifs_of(request, nics)))
    return {"version": 2, "ethernets": ethernets(state)}
