"""A lab that is right passes its self-check, and labs made wrong on purpose do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imagekit.disk.extents import sha256_sparse
from imagekit.errors import LabError
from imagekit.pipeline.events import Event, Events
from imagekit.pipeline.execute import execute
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.store import Store
from imagekit.proof.firmware import Firmware
from imagekit.proof.lab import build_lab, lab_plan
from imagekit.proof.machine import XEN_ARGS, Shape
from imagekit.proof.tools import LabTools, build_tools
from imagekit.proof.xens import XENS

pytestmark = [pytest.mark.real, pytest.mark.xen, pytest.mark.slow]

STOCK = Path("/usr/share/seabios/bios-256k.bin")
EAGER = ",eager-fpu=yes"


def checked(shape: Shape, tools: LabTools) -> None:
    """Build and check a lab of another kind than ``build_lab`` would."""
    events = Events()
    plan = lab_plan(XENS["4.17"], shape, tools, state=True)
    execute(plan, Store(), events, guest="wrong-lab", fresh=False, digest=sha256_sparse)


def test_the_lab_passes_its_check_and_is_not_checked_again(cache: Path) -> None:
    lab = build_lab(XENS["4.17"], Shape(), Events())
    assert lab.check.pv_rounds >= 150
    assert lab.check.pvh_rounds >= 150
    assert "disk reads by DMA" in str(lab.check)
    said: list[Event] = []
    assert build_lab(XENS["4.17"], Shape(), Events([lambda event: said.append(event)])) == lab
    ends = {e.fields["stage"]: e.fields for e in said if e.kind == "stage-finished"}
    assert ends["lab-check"]["cached"]
    assert not [name for name in ends if name.startswith("lab-pv")]


def test_a_lab_that_switches_registers_lazily_fails(cache: Path) -> None:
    assert EAGER in XEN_ARGS
    lazy = replace(Shape(), xen_args=XEN_ARGS.replace(EAGER, ""))
    with pytest.raises(LabError, match=r"the lab does not work on this host: .* PV guest found"):
        checked(lazy, build_tools(Events()))


@pytest.mark.long
def test_a_lab_whose_firmware_has_no_dma_fails(cache: Path) -> None:
    stock = Firmware(STOCK, "stock", digest_file(STOCK))
    with pytest.raises(LabError, match="the lab does not work on this host") as caught:
        checked(Shape(), replace(build_tools(Events()), firmware=stock))
    # Read by PIO: it says so, unless the emulation has lost it before.
    assert caught.value.where == "lab-hvm"
    assert "without DMA" in caught.value.what or "did not come up" in caught.value.what
