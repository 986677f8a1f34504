"""A lab's tools that were never made: plans and reports need only what is said of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from imagekit.pipeline.store import Store
from imagekit.proof.checkprograms import Programs
from imagekit.proof.emulator import EmulatorArchive
from imagekit.proof.firmware import Firmware
from imagekit.proof.tools import LabTools

NOWHERE = Path("/nowhere")
STORE = tempfile.TemporaryDirectory(prefix="lab-store-")


def lab_tools(firmware: str = "6" * 64, emulator: str = "7" * 64) -> LabTools:
    """Tools with these SHA-256 digests; the self-check's programs are two real files."""
    archive = EmulatorArchive(NOWHERE, "1:7.2+dfsg-7", emulator)
    programs = Programs(Path(__file__), Path(__file__))
    made = Firmware(NOWHERE, "1.16.2-1", firmware)
    return LabTools(made, archive, NOWHERE, programs, Store(Path(STORE.name)))
