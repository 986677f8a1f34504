"""ncm-xen's file before the real xl: what it takes, and the one line that only xm does."""

from __future__ import annotations

import pytest
from oracles import xl_reader
from oracles.domain_facts import facts_for

from imagekit.domain import model
from imagekit.toolstacks.quattor.emitter import EMITTER

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(xl_reader.missing() is not None, reason=str(xl_reader.missing())),
]


def written(boot: model.Boot) -> str:
    domain = model.Domain(
        "web1",
        "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11",
        "pv",
        512,
        2,
        boot,
        (model.Disk("/dev/vg01/web1"),),
        (model.Nic("00:16:3e:10:20:30", "xenbr0"),),
    )
    return str(EMITTER.files(domain, facts_for(domain))["etc/xen/web1"].content)


def test_xl_takes_the_file_of_a_guest_that_boots_by_pygrub() -> None:
    reading = xl_reader.read(written(model.Pygrub()))
    assert reading.returncode == 0
    assert reading.config["b_info"]["target_memkb"] == 512 * 1024
    assert reading.config["disks"][0]["pdev_path"] == "/dev/vg01/web1"
    assert reading.config["nics"][0]["bridge"] == "xenbr0"


def test_xl_refuses_the_line_that_hands_pypxeboot_the_nic() -> None:
    text = written(model.Netboot("/usr/bin/pypxeboot"))
    assert text.endswith("bootargs = vif[0]\n")
    assert xl_reader.read(text).returncode != 0
    assert xl_reader.read(text.replace("bootargs = vif[0]\n", "")).returncode == 0
