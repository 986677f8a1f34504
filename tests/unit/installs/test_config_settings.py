"""What a spec says of the machine, down to the words of xl: caps, bridges with VLANs, raw keys."""

from __future__ import annotations

from typing import Any

import pytest
from oracles import xl_cfg
from pydantic import BaseModel, ValidationError

from imagekit.domain.bootpath import domain_for
from imagekit.errors import SpecError
from imagekit.installs.build_facts import ABLE_KERNEL, facts_for, trial_image
from imagekit.spec.model import Spec
from imagekit.toolstacks import xlkeys
from imagekit.toolstacks.xl import emitter as xl

TWO_NODES = [["pnode=0", "size=512", "vcpus=0"], ["pnode=1", "size=512", "vcpus=1"]]


def spec_of(**changes: Any) -> Spec:
    values = {
        "name": "web1",
        "os": {"distribution": "debian", "suite": "bookworm"},
        "install": {"method": "debootstrap"},
    }
    return Spec.model_validate(values | changes)


def xl_settings(**changes: Any) -> dict[str, xl_cfg.Value]:
    """The settings of the xl config that a build of such a spec would have."""
    spec = spec_of(**changes)
    facts = facts_for(spec, ABLE_KERNEL, trial_image(spec))
    return xl_cfg.read(xl.emit(domain_for(facts.located("/b"), mode="pv", toolstack="xl")))


def test_a_cap_of_0_is_no_cap() -> None:
    assert "cap" not in xl_settings(machine={"cpu": {"cap": 0}})
    assert xl_settings(machine={"cpu": {"cap": 150}})["cap"] == 150


@pytest.mark.parametrize("bridge", ["ovs0:10:20", "ovs0.7", "ovs0.7:9", "openvswitch-br0.100"])
def test_bridges_of_open_vswitch_may_have_vlans(bridge: str) -> None:
    found = xl_settings(nics=[{"bridge": bridge, "script": "/etc/xen/scripts/vif-openvswitch"}])
    assert f"bridge={bridge}," in str(found["vif"])


def test_other_bridges_may_not() -> None:
    with pytest.raises(ValidationError, match="only vif-openvswitch"):
        spec_of(nics=[{"bridge": "xenbr0:10"}])
    with pytest.raises(ValidationError):
        spec_of(nics=[{"bridge": "ovs0:"}])


def test_raw_takes_a_list_of_lists_as_vnuma_wants_it() -> None:
    facts = facts_with({"vnuma": TWO_NODES, "usbdevice": ["tablet"]})
    lines = xl.emit(domain_for(facts, mode="pv", toolstack="xl")).splitlines()
    first, second = '[ "pnode=0", "size=512", "vcpus=0" ]', '[ "pnode=1", "size=512", "vcpus=1" ]'
    assert f"vnuma = [ {first}, {second} ]" in lines
    assert 'usbdevice = [ "tablet" ]' in lines


def facts_with(raw: dict[str, Any]) -> Any:
    spec = spec_of(machine={"raw": {"xl": raw}})
    return facts_for(spec, ABLE_KERNEL, trial_image(spec)).located("/b")


@pytest.mark.parametrize("key", sorted(xlkeys.NEWER))
def test_keys_that_xl_4_17_lacks_are_refused_with_their_version(key: str) -> None:
    with pytest.raises(SpecError, match=r"Xen 4\.17") as caught:
        xl.emit(domain_for(facts_with({key: 1}), mode="pv", toolstack="xl"))
    assert caught.value.where == f"raw.{key}" and "4.18" in str(caught.value.hint)


@pytest.mark.parametrize("path", sorted(set(xlkeys.OURS.values())))
def test_the_hint_for_a_key_of_ours_names_a_field_that_a_spec_has(path: str) -> None:
    model: Any = Spec
    for part in path.split("."):
        assert part in model.model_fields, path
        inner = model.model_fields[part].annotation
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    key = next(key for key, field in xlkeys.OURS.items() if field == path)
    with pytest.raises(SpecError) as caught:
        xlkeys.check_raw_key(key)
    assert f"the spec's {path} " in str(caught.value.hint)
