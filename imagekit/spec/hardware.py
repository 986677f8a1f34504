"""What a spec says of the virtual machine around the image: NICs, screen, scheduling, raw keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from imagekit.spec.base import Model
from imagekit.spec.faults import Misfit
from imagekit.spec.toolstack_names import ToolstackName
from imagekit.spec.values import (
    Address,
    Bridge,
    Cidr,
    DnsName,
    HostPath,
    Mac,
    Rate,
    Text,
    VifBridge,
    Word,
)

Action = Literal[
    "destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart"
]
RawItem = str | int
RawValue = RawItem | list[RawItem | list[RawItem]]


class StaticNetwork(Model):
    """Fixed addresses, IPv4 and IPv6."""

    addresses: list[Cidr] = Field(min_length=1)
    gateways: list[Address] = Field(
        default_factory=list,
        description="One outside the addresses' networks is reached on the link, as for /32.",
    )
    dns: list[Address] = Field(default_factory=list)
    search: list[DnsName] = Field(default_factory=list)


Network = Literal["dhcp", "none"] | StaticNetwork


class Nic(Model):
    """One VIF and the guest's configuration of it."""

    bridge: VifBridge = Field(
        "xenbr0", description="With vif-openvswitch also NAME.TAG, NAME:TRUNK and NAME.TAG:TRUNK."
    )
    mac: Mac | None = Field(None, description="Default: derived from the guest's name.")
    ip: Address | None = Field(None, description="Given to the toolstack's vif script.")
    model: Literal["rtl8139", "e1000", "virtio-net"] | None = None
    type: Literal["vif", "ioemu"] | None = Field(
        None, description="HVM: the PV card alone, or with an emulated one (default)."
    )
    rate: Rate | None = None
    script: HostPath | None = None
    gatewaydev: Bridge | None = Field(None, description="vif-route: the interface of dom0.")
    network: Network = "dhcp"

    @model_validator(mode="after")
    def _trunks(self) -> Nic:
        if ":" in self.bridge and (self.script or "").rsplit("/", 1)[-1] != "vif-openvswitch":
            raise Misfit(
                f"{self.bridge!r} has VLANs, which only vif-openvswitch knows",
                "bridge",
                hint="set script: vif-openvswitch",
            )
        return self


class Graphics(Model):
    """A screen over VNC."""

    listen: Address = "127.0.0.1"
    display: int | None = Field(None, ge=0, le=59635)
    keymap: Word | None = None
    password: bool = Field(
        False, description="A password is wanted; config takes it with --vnc-password-file."
    )


class Cpu(Model):
    """Scheduling by Xen."""

    weight: int | None = Field(None, ge=1, le=65535, description="256 is usual.")
    cap: int | None = Field(
        None, ge=0, le=100 * 512, description="Percent of one CPU; 0 is no cap."
    )
    pins: Text = Field("all", description='Physical CPUs, "0-3,5,^1".')


class Machine(Model):
    """What happens to the domain, and extra settings of one toolstack."""

    graphics: Graphics | None = None
    cpu: Cpu = Cpu()
    maxvcpus: int | None = Field(None, ge=1, le=512)
    on_poweroff: Action = "destroy"
    on_reboot: Action = "restart"
    on_crash: Action = "destroy"
    raw: dict[ToolstackName, dict[str, RawValue]] = Field(
        default_factory=dict, description="Toolstack to its own keys and values."
    )
