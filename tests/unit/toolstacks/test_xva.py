"""XVA files, read back under the rules of XAPI's import."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import uuid
import xmlrpc.client
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles import xva_reader
from oracles.domain_facts import facts_for

from imagekit.domain import model
from imagekit.errors import CapabilityError, ImagekitError, SpecError
from imagekit.toolstacks.xapi.xva import CHUNK, EMITTER, write_xva
from imagekit.toolstacks.xapi.xva_objects import VdiSource, ova_lines, ova_objects
from imagekit.toolstacks.xapi.xva_xml import value

outcomes: Counter[str] = Counter()
UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
KIB = 1024


def guest(*paths: Path, **changes: Any) -> model.Domain:
    values: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "mode": "pv",
        "memory_mib": 512,
        "vcpus": 2,
        "boot": model.Pygrub(),
        "disks": tuple(
            model.Disk(str(p), vdev=f"xvd{'abcdefghij'[i]}") for i, p in enumerate(paths)
        ),
        "nics": (model.Nic("00:16:3e:10:20:30", "xenbr0"),),
    }
    return model.Domain(**(values | changes))


def written(domain: model.Domain) -> xva_reader.Xva:
    stream = io.BytesIO()
    write_xva(domain, facts_for(domain), stream)
    return xva_reader.read(io.BytesIO(stream.getvalue()))


def expected(domain: model.Domain) -> dict[str, Any]:
    boot, mib = domain.boot, 1024 * 1024
    kernel = ("", "", "")
    if isinstance(boot, model.DirectKernel):
        kernel = (boot.kernel, boot.initrd or "", boot.cmdline)
    elif isinstance(boot, model.Pvgrub):
        kernel = (boot.image_path, "", "")
    cpu = {"weight": domain.cpu.weight, "cap": domain.cpu.cap}
    pins = ",".join(str(pin) for pin in domain.cpu.pins)
    firmware = (boot.kind, boot.boot_order) if isinstance(boot, model.Firmware) else None
    pygrub = isinstance(boot, model.Pygrub)
    crash = domain.on_crash.replace("coredump-", "coredump-and-").replace("-", "_")
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "mode": domain.mode,
        "memory": [domain.memory_mib * mib] * 3 + [(domain.maxmem_mib or domain.memory_mib) * mib],
        "vcpus": (domain.vcpus, domain.maxvcpus or domain.vcpus),
        "cpu": {k: str(v) for k, v in cpu.items() if v is not None}
        | ({"mask": pins} if pins else {}),
        "bootloader": ("pygrub", " ".join(boot.args)) if pygrub else ("", ""),  # type: ignore[union-attr]
        "kernel": kernel,
        "firmware": firmware,
        "serial": (domain.serial or "none") if domain.mode == "hvm" else None,
        "actions": [domain.on_poweroff, domain.on_reboot, crash],
        "disks": [
            ("abcdefgh".index(d.vdev[-1]), i == 0, d.readonly, d.target is None, d.target is None)
            for i, d in enumerate(domain.disks)
        ],
        "nics": [
            (
                nic.mac,
                nic.bridge,
                sorted(nic.ips),
                {
                    "kbps": str(max(1, round(nic.rate.bytes_per_second / 1024))),
                    "timeslice_us": str(nic.rate.interval_us),
                }
                if nic.rate
                else {},
            )
            for nic in domain.nics
        ],
    }


GUEST_KERNELS = st.sampled_from(
    [
        model.DirectKernel("/var/lib/xcp/guest/a&b<c", None, 'root="x" <&> ro'),
        model.DirectKernel("/var/lib/xcp/guest/k", "/var/lib/xcp/guest/'i\"", "é雪🐧 $(x) %s \\n"),
        model.Pvgrub("/var/lib/xcp/guest/pvgrub]]>.bin"),
        model.Pygrub(("--entry=2", "-q")),
    ]
)


@given(some.domains(), GUEST_KERNELS, st.sampled_from([False, True, True]))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_records_read_back_as_the_domain_or_are_refused(
    domain: model.Domain, boot: model.Boot, swap: bool
) -> None:
    if swap and domain.mode != "hvm" and domain.disks:
        domain = dataclasses.replace(domain, boot=boot)
    if swap and domain.mode == "hvm":
        domain = dataclasses.replace(domain, boot=model.Firmware())
    if swap:  # without what XAPI has no word for
        domain = dataclasses.replace(domain, on_poweroff="destroy", on_reboot="restart")
        domain = dataclasses.replace(domain, graphics=None)
    sources = tuple(
        VdiSource(f"Ref:{1000 + i}", CHUNK) for i, d in enumerate(domain.disks) if d.target
    )
    try:
        lines = ova_lines(ova_objects(domain, sources))
    except ImagekitError as error:
        assert error.where and error.hint
        outcomes["refused"] += 1
        return
    text = "\n".join(line.text for line in lines)
    assert xva_reader.machine(xva_reader.objects(text)) == expected(domain)
    outcomes["read back"] += 1


def test_enough_random_domains_were_read_back() -> None:
    if not outcomes:  # this test was picked alone
        test_records_read_back_as_the_domain_or_are_refused()
    assert outcomes["read back"] > 5, outcomes


@given(st.text(max_size=12) | st.text("<>&\"' ]a", max_size=8))
@settings(max_examples=500, deadline=None)
def test_xml_values_survive_or_are_refused(text: str) -> None:
    try:
        xml = value(text, "field")
    except SpecError as error:
        assert error.where == "field" and text != " ".join(text.split())
        return
    if any(ord(c) < 32 or ord(c) in (0xFFFE, 0xFFFF) for c in text):
        return  # the model lets no such character through to here
    assert xmlrpc.client.loads(f"<params><param>{xml}</param></params>")[0] == (text,)


PIECES = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, CHUNK - 1), st.binary(min_size=1, max_size=9)),
    max_size=4,
)
SIZES = st.sampled_from(
    [0, 512, 513, CHUNK - 512, CHUNK, CHUNK + 512, 4 * CHUNK, 8 * CHUNK - 1024, 8 * CHUNK]
)


@given(st.lists(st.tuples(SIZES, PIECES), min_size=1, max_size=3))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_disks_come_back_byte_by_byte_with_few_pieces(
    tmp_path: Path, disks: list[tuple[int, list[tuple[int, int, bytes]]]]
) -> None:
    paths = []
    for size, pieces in disks:
        path = tmp_path / f"{uuid.uuid4()}.raw"
        with path.open("wb") as file:
            file.truncate(size)
            for chunk, offset, data in pieces:
                at = min(chunk * CHUNK + offset, size)
                file.seek(at)
                file.write(data[: size - at])
        paths.append(path)
    xva = written(guest(*paths))
    for number, path in enumerate(paths):
        content = path.read_bytes()
        size, numbers, image = xva.disks[f"Ref:{1000 + number}"]
        assert image == content.ljust(size, b"\0")
        assert size == max(-(-len(content) // 512) * 512, CHUNK)
        last = (size - 1) // CHUNK
        nonzero = {i for i in range(last + 1) if any(image[i * CHUNK : (i + 1) * CHUNK])}
        assert numbers == sorted(nonzero | {0, last})
        path.unlink()


def test_small_first_disk_does_not_shorten_the_gaps_of_the_next(tmp_path: Path) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    small.write_bytes(b"s" * 512)
    with big.open("wb") as file:
        file.truncate(6 * CHUNK)
        file.seek(4 * CHUNK)
        file.write(b"data")
    xva = written(guest(small, big))
    assert xva.disks["Ref:1000"][:2] == (CHUNK, [0])
    assert xva.disks["Ref:1001"][:2] == (6 * CHUNK, [0, 4, 5])
    assert xva.disks["Ref:1001"][2] == big.read_bytes()


def test_same_input_makes_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * CHUNK)
    streams = [io.BytesIO(), io.BytesIO()]
    for stream in streams:
        write_xva(guest(path), facts_for(guest(path)), stream)
    assert streams[0].getvalue() == streams[1].getvalue()


def test_ten_sparse_gibibytes_stay_small_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.raw"
    with path.open("wb") as file:
        file.truncate(10 << 30)
        for gibibyte in range(10):
            file.seek(gibibyte << 30)
            file.write(b"data")
    stream = Counting()
    written: Any = stream
    write_xva(guest(path), facts_for(guest(path)), written)
    assert stream.count < 12 * (CHUNK + 4 * KIB) + 64 * KIB


class Counting(io.RawIOBase):
    """A stream that only counts."""

    count = 0

    def write(self, data: Any) -> int:
        self.count += len(data)
        return len(data)


def test_a_qcow2_disk_without_a_raw_twin_is_refused_with_the_way_out(tmp_path: Path) -> None:
    domain = guest(disks=(model.Disk("/srv/a.qcow2", "qcow2"),))
    with pytest.raises(CapabilityError) as caught:
        EMITTER.files(domain, facts_for(domain))
    assert "convert" in str(caught.value.hint)
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"x" * 4096)
    facts = facts_for(domain)
    disk = dataclasses.replace(facts.disks[0], paths={"qcow2": "/srv/a.qcow2", "raw": str(raw)})
    stream = io.BytesIO()
    write_xva(domain, dataclasses.replace(facts, disks=(disk,)), stream)
    assert xva_reader.read(io.BytesIO(stream.getvalue())).disks["Ref:1000"][0] == CHUNK


def test_a_kernel_outside_of_the_guest_directory_is_refused(tmp_path: Path) -> None:
    for boot in (model.DirectKernel("/boot/guest/k"), model.Pvgrub("/usr/lib/grub-xen/g.bin")):
        with pytest.raises(SpecError, match="/var/lib/xcp/guest"):
            domain = guest(boot=boot, disks=())
            EMITTER.text(domain, facts_for(domain))


def test_gnu_tar_lists_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * (CHUNK + 512))
    domain = guest(path)
    (file,) = EMITTER.files(domain, facts_for(domain)).values()
    target = tmp_path / "a.xva"
    with target.open("wb") as stream:
        assert callable(file.content)
        file.content(stream)
    done = subprocess.run(["tar", "-tf", target], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "ova.xml",
        *("Ref:1000/00000000", "Ref:1000/00000000.checksum"),
        *("Ref:1000/00000001", "Ref:1000/00000001.checksum"),
    ]
    assert done.stderr == ""
