"""Hostile values in every field of a domain that is text, through every emitter.

What is emitted is read back by the toolstack's own parser, or an oracle written from its grammar:
it says exactly the domain, or the domain was refused with the field and a hint.
``IMAGEKIT_FUZZ_VALUES`` is the number of cases for each emitter, at least 40; a case has one to
four hostile values.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some
from oracles import (
    fake_openstack,
    fake_xe,
    libvirt_reader,
    ncm_xen_reader,
    opennebula_reader,
    pan_reader,
    xl_cfg,
    xl_model,
    xl_reader,
    xm_reader,
    xva_reader,
)
from oracles.domain_facts import facts_for

from imagekit.domain import model
from imagekit.errors import ImagekitError
from imagekit.toolstacks.glance.emitter import GlanceEmitter, Options
from imagekit.toolstacks.libvirt import emitter as libvirt
from imagekit.toolstacks.opennebula.emitter import OpenNebulaEmitter
from imagekit.toolstacks.opennebula.emitter import Options as OpenNebulaOptions
from imagekit.toolstacks.quattor.emitter import Options as QuattorOptions
from imagekit.toolstacks.quattor.emitter import QuattorEmitter
from imagekit.toolstacks.xapi.script import XapiEmitter
from imagekit.toolstacks.xapi.xva import CHUNK
from imagekit.toolstacks.xapi.xva_objects import VdiSource, ova_lines, ova_objects
from imagekit.toolstacks.xl import emitter as xl
from imagekit.toolstacks.xm import emitter as xm

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
CASES = max(40, int(os.environ.get("IMAGEKIT_FUZZ_VALUES", "50")))
long_run = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
read_back: Counter[str] = Counter()
Made = TypeVar("Made")

# What means something in one grammar or another, at a value's beginning, within it and at its end.
MARKS = [
    *",;#=:|&$%\\\"'`(){}[]<>!?*~^@/ \t",
    *(", ", " #", ",,", ", target=", ",vdev=xvdz", "\\", "\\\\", '\\"', "\\'", '"""', "'''", "$("),
    *("${x}", "`x`", "%(x)s", "%s", "%x", "{{x}}", "]]>", "-->", "&amp;", "<!--", "\\n", "\\x41"),
    *(
        "\\101",
        "'\"'",
        "--x",
        "-x",
        "=x",
        "é",
        "雪",
        "😀",
        "\U0010fffd",
        "\xa0",
        "\u200b",
        "\ufeff",
    ),
]
FATAL = ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\ud800", "\ufffe", "x" * 5000]
_piece = st.one_of(
    *[st.sampled_from(MARKS)] * 12, *[st.sampled_from("aZ0._-")] * 6, st.sampled_from(FATAL)
)
HOSTILE = st.lists(_piece, max_size=5).map("".join) | some.TEXT | st.sampled_from(MARKS)
PATH = st.builds("/{}{}".format, st.sampled_from(["srv/xen/", "", "dev/vg0/", "a,b=c/"]), HOSTILE)


@st.composite
def hostile(draw: st.DrawFn) -> model.Domain | None:
    """A plain domain with one to four hostile values; None where the model refuses it."""
    mode = draw(st.sampled_from(["pv", "pv", "hvm"]))
    values: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "mode": mode,
        "memory_mib": 512,
        "vcpus": 2,
        "boot": model.Firmware() if mode == "hvm" else model.Pygrub(),
        "nics": (model.Nic("00:16:3e:10:20:30", "xenbr0"),),
    }
    targets = ["/srv/xen/a.img", "/srv/xen/b.img"]
    kernel, initrd, cmdline = "/boot/vmlinuz", "/boot/initrd", "root=/dev/xvda1 ro"
    fields = [
        "target",
        "target",
        "second",
        "kernel",
        "initrd",
        "cmdline",
        "args",
        "password",
        "bridge",
    ]
    for field in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=4)):
        if field in ("target", "second"):
            targets[field == "second"] = draw(PATH)
        elif field == "args" and mode == "pv":
            values["boot"] = model.Pygrub((draw(HOSTILE), draw(HOSTILE)))
        elif field == "password":
            values["graphics"] = model.Vnc("127.0.0.1", 1, draw(HOSTILE), None)
        elif field == "bridge":
            values["nics"] = (model.Nic("00:16:3e:10:20:30", draw(HOSTILE)),)
        else:
            kernel = draw(PATH) if field == "kernel" else kernel
            initrd = draw(PATH) if field == "initrd" else initrd
            cmdline = draw(HOSTILE) if field == "cmdline" else cmdline
            values["boot"] = model.DirectKernel(kernel, initrd, cmdline)
    try:
        disks = (model.Disk(targets[0]), model.Disk(targets[1], vdev="xvdb"))
        return model.Domain(**values, disks=disks)
    except ImagekitError as error:
        assert error.where
        return None


def emitted(
    name: str, domain: model.Domain | None, emit: Callable[[model.Domain], Made]
) -> Made | None:
    """What ``emit`` makes; None without a domain, or where it refuses as users can understand."""
    if domain is None:
        return None
    try:
        made = emit(domain)
    except ImagekitError as error:
        assert error.what
        assert error.where
        return None
    read_back[name] += 1
    return made


@long_run
@given(hostile())
def test_xl(domain: model.Domain | None) -> None:
    text = emitted("xl", domain, xl.emit)
    if domain is None or text is None:
        return
    disks = xl_cfg.read(text)["disk"]
    assert isinstance(disks, list)
    assert [str(d).partition("target=")[2] for d in disks] == [d.target for d in domain.disks]
    if xl_reader.missing() is None:
        reading = xl_reader.read(text)
        assert (reading.complaints, reading.returncode) == ((), 0), text
        assert xl_model.from_xl(reading.config) == xl_model.expected(domain), text


@long_run
@given(hostile(), st.booleans())
def test_xm(domain: model.Domain | None, sxp: bool) -> None:
    text = emitted("xm", domain, lambda d: xm.emit(d, sxp=sxp))
    if domain is not None and text is not None:
        read = xm_reader.from_sxp if sxp else xm_reader.from_xm
        xl_model.assert_same_machine(read(text), xl_model.expected(domain))


@long_run
@given(hostile())
def test_libvirt(domain: model.Domain | None) -> None:
    text = emitted("libvirt", domain, libvirt.emit)
    if domain is not None and text is not None:
        assert not libvirt_reader.SCHEMA.exists() or libvirt_reader.schema_errors(text) == []
        xl_model.assert_same_machine(libvirt_reader.from_libvirt(text), xl_model.expected(domain))


@long_run
@given(hostile())
def test_opennebula(domain: model.Domain | None) -> None:
    emitter = OpenNebulaEmitter(OpenNebulaOptions(release="4.14"))
    files = emitted("opennebula", domain, lambda d: emitter.files(d, facts_for(d)))
    if domain is None or files is None:
        return
    vm = next(str(f.content) for name, f in files.items() if name.endswith(".vm"))
    images = [str(f.content) for name, f in files.items() if name.endswith(".image")]
    found, wanted = opennebula_reader.from_templates(vm, images), xl_model.expected(domain)
    for key in ("kernel", "initrd", "cmdline", "bootloader", "bootloader_args", "vnc", "name"):
        assert found[key] == wanted[key], key
    assert [d["target"] for d in found["disks"]] == [d.target for d in domain.disks]
    assert [n["bridge"] for n in found["nics"]] == [n.bridge for n in domain.nics]


@long_run
@given(hostile())
def test_quattor(domain: model.Domain | None) -> None:
    emitter = QuattorEmitter(QuattorOptions())
    files = emitted("quattor", domain, lambda d: emitter.files(d, facts_for(d)))
    if domain is None or files is None:
        return
    _, tree = pan_reader.read(str(files["xen/guests/web1.pan"].content))
    options = tree["software"]["components"]["xen"]["domains"]["web1"]["options"]
    body = str(files["etc/xen/web1"].content).partition(" writes it.\n")[2]
    assert body == ncm_xen_reader.replay(options)
    found, wanted = ncm_xen_reader.machine(body), xl_model.expected(domain)
    assert [d["target"] for d in found["disks"]] == [d.target for d in domain.disks]
    for key in ("kernel", "initrd", "cmdline", "bootloader_args"):
        assert found[key] == wanted[key], key


@long_run
@given(hostile())
def test_xva(domain: model.Domain | None) -> None:
    if domain is None:
        return
    sources = tuple(VdiSource(f"Ref:{1000 + i}", CHUNK) for i in range(len(domain.disks)))
    lines = emitted("xva", domain, lambda d: ova_lines(ova_objects(d, sources)))
    if lines is None:
        return
    found = xva_reader.machine(xva_reader.objects("\n".join(line.text for line in lines)))
    boot = domain.boot
    if isinstance(boot, model.DirectKernel):
        assert found["kernel"] == (boot.kernel, boot.initrd or "", boot.cmdline)
    elif isinstance(boot, model.Pygrub):
        assert found["bootloader"] == ("pygrub", " ".join(boot.args))
    assert [nic[1] for nic in found["nics"]] == [nic.bridge for nic in domain.nics]


@long_run
@given(hostile())
def test_xapi(domain: model.Domain | None) -> None:
    script = emitted("xapi", domain, lambda d: XapiEmitter().text(d, facts_for(d)))
    if domain is None or script is None:
        return
    fake = fake_xe.FakeXe()
    assert (*fake_xe.run(script, fake), fake.ignored) == (0, "", [])
    vm, boot = fake.vms["vm-1"], domain.boot
    copies = {call["to"]: call["from"] for call in fake.calls if call[""] == "install"}
    if isinstance(boot, model.DirectKernel):
        found = [copies.get(vm[key], vm[key]) for key in ("PV-kernel", "PV-ramdisk")]
        assert found == [boot.kernel, boot.initrd or ""]
        assert vm["PV-args"] == boot.cmdline
    imported = [call["filename"] for call in fake.calls if call[""] == "vdi-import"]
    assert imported == [disk.target for disk in domain.disks]
    asked = {call["bridge"] for call in fake.calls if call[""] == "network-list"}
    assert asked == {nic.bridge for nic in domain.nics}


@long_run
@given(hostile(), st.sampled_from(["nova-libvirt", "nova-xenapi"]))
def test_glance(domain: model.Domain | None, target: Any) -> None:
    emitter = GlanceEmitter(Options(target=target))
    script = emitted("glance", domain, lambda d: emitter.text(d, facts_for(d)))
    if domain is None or script is None:
        return
    fake = fake_openstack.FakeOpenstack()
    status, _, errors = fake_openstack.run(script, fake)
    assert (status, errors) == (0, "")
    images = list(fake.images.values())
    disks = [i for i in images if i["disk-format"] not in ("aki", "ari")]
    for image, disk in zip(disks, domain.disks, strict=True):
        assert image["file"] == disk.target or image["file"].endswith(".tgz")
    kernels = {image["disk-format"]: image["file"] for image in images if image not in disks}
    if isinstance(domain.boot, model.DirectKernel):
        assert kernels.get("aki") == domain.boot.kernel
        assert kernels.get("ari") == domain.boot.initrd
        assert disks[0]["properties"].get("os_command_line", "") == domain.boot.cmdline


def test_each_emitter_took_some_of_the_hostile_values() -> None:
    for name, test in {
        "xl": test_xl,
        "xm": test_xm,
        "libvirt": test_libvirt,
        "opennebula": test_opennebula,
        "quattor": test_quattor,
        "xva": test_xva,
        "xapi": test_xapi,
        "glance": test_glance,
    }.items():
        if not read_back[name]:  # this test was picked alone
            test()
        assert read_back[name] >= CASES // 100 + 1, read_back
