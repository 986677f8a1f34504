"""What OpenNebula's driver will write, as the real xl reads it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from oracles import domain_strategies as some
from oracles import xl_model, xl_reader
from oracles.domain_facts import facts_for

from imagekit.domain import model
from imagekit.errors import ImagekitError
from imagekit.toolstacks.opennebula.emitter import OpenNebulaEmitter, Options

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(xl_reader.missing() is not None, reason=str(xl_reader.missing())),
]
EMITTER = OpenNebulaEmitter(Options(release="4.14"))
DIRECTORY = "/var/lib/one/datastores/0/0"
outcomes: Counter[str] = Counter()


def deployment(domain: model.Domain) -> str | None:
    try:
        files = EMITTER.files(domain, facts_for(domain))
    except ImagekitError:
        return None
    return next(str(f.content) for name, f in files.items() if name.endswith(".deployment"))


def expected(domain: model.Domain) -> dict[str, Any]:
    shape = xl_model.expected(domain) | {"name": "one-0", "weight": None}
    del shape["uuid"]
    if isinstance(domain.boot, model.DirectKernel):
        shape["kernel"] = f"{DIRECTORY}/kernel"
        shape["initrd"] = shape["initrd"] and f"{DIRECTORY}/initrd"
    for number, disk in enumerate(shape["disks"]):
        disk |= {"target": f"{DIRECTORY}/disk.{number}", "backend": None}
    for nic in shape["nics"]:
        nic |= {"type": None, "script": None}
    if domain.mode != "hvm" and shape["vnc"] and shape["vnc"]["display"] is None:
        # OpenNebula numbers the screens itself: 5900 and the VM's number.
        shape["vnc"]["display"] = 0
    return shape


@given(some.domains())
@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
def test_xl_reads_the_deployment_file_as_the_domain(domain: model.Domain) -> None:
    text = deployment(domain)
    if text is None:
        return
    outcomes["read"] += 1
    reading = xl_reader.read(text)
    assert reading.complaints == () and reading.returncode == 0, text
    for screen in reading.config.get("vfbs", []):
        # The driver leaves out vnc=1, and libxl's default is to have it.
        screen["vnc"].setdefault("enable", "True")
    shape = xl_model.from_xl(reading.config)
    del shape["uuid"]
    assert shape == expected(domain), text


def test_enough_deployment_files_were_read() -> None:
    if not outcomes["read"]:  # alone, or in another process than the property test
        test_xl_reads_the_deployment_file_as_the_domain()
    assert outcomes["read"] > 30, outcomes


def test_xl_refuses_the_documented_raw_example_without_quotes() -> None:
    domain = model.Domain(
        "web1", "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11", "pv", 512, 1, model.DirectKernel("/k")
    )
    text = deployment(domain)
    assert text is not None
    assert xl_reader.read(text).returncode == 0
    assert xl_reader.read(text + "on_crash=destroy\n").returncode != 0
