"""What a new guest should be: from the command line or a file of many."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml.error import YAMLError

from imagekit.disk.volume import check_group
from imagekit.errors import SpecError
from imagekit.spec.derived import CLONED
from imagekit.spec.faults import faults
from imagekit.spec.places import Document, refused_in
from imagekit.spec.shape import Loc
from imagekit.spec.values import Address, Bridge, Cidr, Mac, NamedPath, Size
from imagekit.spec.yamltext import yaml_reader

MAX_FILE_BYTES = 4 << 20
MAX_GUESTS = 1000
MAX_NODES = 100_000
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
Hostname = Annotated[str, Field(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=253)]


class GuestRequest(BaseModel):
    """One guest; None leaves what the golden image has. ``memory`` in MiB, ``size`` in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    memory: int | None = Field(None, ge=32, le=16 << 20)
    vcpus: int | None = Field(None, ge=1, le=512)
    size: Size | None = None
    hostname: Hostname | None = None
    bridge: Bridge | None = None
    mac: Mac | None = None
    ip: list[Cidr] = Field(default_factory=list, max_length=16)
    gateway: list[Address] = Field(default_factory=list, max_length=4)
    dns: list[Address] = Field(default_factory=list, max_length=8)
    ssh_keys: list[str] = Field(default_factory=list, max_length=64)
    device: NamedPath | None = None
    vg: Annotated[str, AfterValidator(check_group)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if isinstance(value, dict):
            value = dict(value)
            for key in ("ip", "gateway", "dns", "ssh_keys"):
                if isinstance(value.get(key), str):
                    value[key] = [value[key]]
        return value

    @model_validator(mode="after")
    def _one_place(self) -> GuestRequest:
        if self.device is not None and self.vg is not None:
            raise ValueError("device and vg are two places for one disk")
        return self

    @property
    def domain_uuid(self) -> str:
        """The domain's UUID, which follows from the name."""
        return CLONED.uuid(self.name)

    def mac_of(self, index: int) -> str:
        """The MAC of a NIC: the one asked for, else one that follows from the name."""
        if index == 0 and self.mac:
            return self.mac
        return CLONED.mac(self.name, index)


class Guests(BaseModel):
    """A file of guests: ``defaults`` go into each of ``guests`` that does not say otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[str, object] = Field(default_factory=dict)
    guests: list[dict[str, object]] = Field(min_length=1, max_length=MAX_GUESTS)


OPTIONS = {"ssh_keys": "ssh-key"}
"""Options that are not called as their field."""
Clone = Literal["overlay", "copy", "chain"]
"""A qcow2 overlay, a raw copy, or a differencing VHD."""


def read_guests(path: Path) -> list[GuestRequest]:
    """The guests in the YAML file ``path``; raises SpecError naming the guest that is wrong."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise SpecError("the file is larger than 4 MiB", where=str(path))
        value = yaml_reader(max_nodes=MAX_NODES).load(data.decode())
        guests = Guests.model_validate(value)
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}", where=str(path)) from None
    except ValidationError as error:
        raise refused_in(error, Guests, path, data.decode(), nodes=MAX_NODES) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"not YAML: {str(error).splitlines()[0]}", where=str(path)) from None
    requests = []
    for index, item in enumerate(guests.guests):
        try:
            requests.append(_checked({**guests.defaults, **item}))
        except ValidationError as error:
            above = _above(error, index, item)
            text = data.decode()
            raise refused_in(
                error, GuestRequest, path, text, above=above, nodes=MAX_NODES
            ) from None
        except ValueError as error:
            raise SpecError(str(error), where=f"{path}: guests[{index}]") from None
    names = [r.name for r in requests]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SpecError(f"names {', '.join(twice)} twice", where=str(path))
    _refuse_equal(requests, path, data.decode())
    devices = [os.path.realpath(r.device) for r in requests if r.device is not None]
    if len(set(devices)) != len(devices):
        raise SpecError("gives one device to two guests", where=str(path))
    return requests


def _refuse_equal(requests: Sequence[GuestRequest], path: Path, text: str) -> None:
    """Raise SpecError when two guests have one MAC or one address."""
    document = Document(path, yaml_reader("rt", max_nodes=MAX_NODES).load(text))
    seen: dict[str, str] = {}
    for index, request in enumerate(requests):
        addresses = [str(ipaddress.ip_interface(text).ip) for text in request.ip]
        for field, value in [("mac", request.mac), *(("ip", address) for address in addresses)]:
            if value is None:
                continue
            if value in seen:
                raise SpecError(
                    f"{value} is also that of {seen[value]}",
                    where=document.where(("guests", index, field)),
                    hint=f"give each guest its own {field}; under defaults it is everybody's",
                )
            seen[value] = request.name


def _checked(value: dict[str, object]) -> GuestRequest:
    return GuestRequest.model_validate(value)


def _above(error: ValidationError, index: int, item: dict[str, object]) -> Loc:
    """Where the first fault of a guest stands: in the guest, or in what is said for all."""
    loc = faults(error, GuestRequest)[0].loc
    own = not loc or loc[0] in item or loc[0] == "name"
    return ("guests", index) if own else ("defaults",)


def make_request(value: dict[str, object]) -> GuestRequest:
    """A checked request from options of the command line; raises SpecError naming the option."""
    try:
        return _checked(value)
    except ValidationError as error:
        first = faults(error, GuestRequest)[0]
        field = str(first.loc[0]) if first.loc else "device"
        option = "NAME" if field == "name" else f"--{OPTIONS.get(field, field)}"
        raise SpecError(first.what, where=option, hint=first.hint) from None
    except ValueError as error:
        raise SpecError(str(error), where="--device or --vg") from None
