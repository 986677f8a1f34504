"""What a spec says of the machine reaches the configs, and toolstack options reach emitters."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekit.domain.bootpath import domain_for
from imagekit.domain.model import Cpu, Rate, Vnc
from imagekit.errors import CapabilityError, SpecError
from imagekit.installs.build_facts import ABLE_KERNEL, facts_for, trial_image
from imagekit.installs.context import BuildContext
from imagekit.installs.stages.configs import Configs
from imagekit.spec.load import SpecFile, load_spec
from imagekit.toolstacks.options import choices, chosen
from imagekit.toolstacks.registry import toolstack

SPEC = """\
name: web01
os: {suite: bookworm}
install: {method: debootstrap}
nics: [{script: vif-route, ip: 192.0.2.7, gatewaydev: eth0, rate: 10MB/s, type: vif}]
machine:
  graphics: {listen: 192.0.2.1, display: 3}
  cpu: {weight: 512, cap: 50, pins: "0-2,^1"}
  maxvcpus: 4
  on_reboot: destroy
  raw: {xl: {xen_platform_pci: 1, localtime: 1}}
"""


def load(tmp_path: Path, text: str) -> SpecFile:
    path = tmp_path / "web01.yaml"
    path.write_text(text)
    return load_spec(path)


def test_machine_and_nics_of_a_spec_reach_the_domain(tmp_path: Path) -> None:
    spec = load(tmp_path, SPEC).spec
    facts = facts_for(spec, ABLE_KERNEL, trial_image(spec)).located("/srv")
    domain = domain_for(facts, mode="hvm", toolstack="xl")
    assert domain.graphics == Vnc("192.0.2.1", 3)
    assert domain.cpu == Cpu(512, 50, (0, 2))
    assert domain.maxvcpus == 4
    assert domain.on_reboot == "destroy"
    assert domain.raw == (("xen_platform_pci", 1), ("localtime", 1))
    nic = domain.nics[0]
    assert (nic.script, nic.ips, nic.gatewaydev, nic.type) == (
        "vif-route",
        ("192.0.2.7",),
        "eth0",
        "vif",
    )
    assert nic.rate == Rate.parse("10MB/s")


def test_words_are_tried_before_anything_is_built(tmp_path: Path) -> None:
    file = load(tmp_path, SPEC.replace(", ip: 192.0.2.7", ""))
    with pytest.raises(SpecError, match="ip") as caught:
        Configs(BuildContext(file, tmp_path))
    assert "nics[0]" in str(caught.value)


def test_a_toolstack_leaves_out_the_modes_it_does_not_know(tmp_path: Path) -> None:
    plain = SPEC.split("nics:")[0] + "toolstacks: [xl, xm]\n"
    made = Configs(BuildContext(load(tmp_path, plain), tmp_path)).makes
    assert "web01.pvh.xl.cfg" in made
    assert "web01.pv.xm.cfg" in made
    assert "web01.pvh.xm.cfg" not in made
    only = plain.replace("[xl, xm]", "[xm]") + "boot: {modes: [pvh]}\n"
    with pytest.raises(CapabilityError, match="PVH"):
        Configs(BuildContext(load(tmp_path, only), tmp_path))


def test_a_screen_with_a_password_is_worded_by_config_alone(tmp_path: Path) -> None:
    file = load(tmp_path, SPEC.replace("display: 3", "password: true"))
    assert Configs(BuildContext(file, tmp_path)).makes == ("facts.json",)


def test_options_of_a_toolstack_are_checked() -> None:
    glance = toolstack("glance")
    options = chosen(glance, choices(["target=nova-xenapi", "ami=false"]))
    assert (options.target, options.ami) == ("nova-xenapi", False)
    for pairs in (["target=nowhere"], ["nothing=1"], ["ami=maybe"], ["target"]):
        with pytest.raises(SpecError, match="option"):
            chosen(glance, choices(pairs))
    with pytest.raises(SpecError, match="no options"):
        chosen(toolstack("libvirt"), choices(["a=b"]))
    assert chosen(toolstack("xapi"), choices(["handlers=direct_vhd,vdi_local_dev"])).handlers == (
        "direct_vhd",
        "vdi_local_dev",
    )
