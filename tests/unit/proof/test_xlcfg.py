"""Reading xl configs: what our emitter writes, what people write, and what nobody should."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import domain_strategies as some

from imagekit.domain import model
from imagekit.errors import SpecError
from imagekit.proof.guestconfig import GuestDisk
from imagekit.proof.xlcfg import parse_config, parse_disk
from imagekit.toolstacks.xl import emitter as xl

PATH = Path("/srv/guest.cfg")
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def parse(text: str) -> object:
    return parse_config(text.encode(), PATH)


@given(some.attempts())
@quick
def test_every_emitted_config_reads_back_as_the_domain(arguments: dict[str, object]) -> None:
    domain = some.build(arguments)
    if domain is None:
        return
    config = parse_config(xl.emit(domain).encode(), PATH)
    assert (config.name, config.mode) == (domain.name, domain.mode)
    assert config.memory_mib == max(domain.memory_mib, 32)
    direct = domain.boot if isinstance(domain.boot, model.DirectKernel) else None
    if direct is not None:
        assert (config.kernel, config.ramdisk) == (direct.kernel, direct.initrd)
    assert [n.mac for n in config.nics] == [n.mac for n in domain.nics]
    expected = [
        GuestDisk(d.target, "empty" if d.target is None else d.format, d.vdev, d.readonly, d.cdrom)
        for d in domain.disks
    ]
    assert list(config.disks) == expected


@given(st.text("abxk =+[]\"'\\,#;\n0129.é\x00{", max_size=60) | st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_config_or_is_refused_with_a_reason(text: str) -> None:
    try:
        parse(text)
    except SpecError as error:
        assert str(PATH) in str(error)


def test_what_people_write_is_understood() -> None:
    config = parse_config(
        b"""# a guest
name='web "1"'; memory = 0x200
builder = "hvm"   # old
disk = [ 'phy:/dev/vg0/a,hda,w',
  # and a CD
  'file:/srv/b.iso,hdc:cdrom,r', ]
disk += [ "/srv/c d.qcow2,qcow2,xvdc,w" ]
vif = [ 'mac=00-16-3E-00-00-01,bridge=br7', '' ]
serial = 'pty'
""",
        PATH,
    )
    assert config.name == 'web "1"'
    assert (config.memory_mib, config.mode, config.boot) == (512, "hvm", "firmware")
    assert config.serial
    assert [d.path for d in config.disks] == ["/dev/vg0/a", "/srv/b.iso", "/srv/c d.qcow2"]
    assert [d.cdrom for d in config.disks] == [False, True, False]
    assert config.nics[0].mac == "00:16:3e:00:00:01"
    assert [n.bridge for n in config.nics] == ["br7", "xenbr0"]


@pytest.mark.parametrize(
    ("lines", "boot"),
    [
        ('bootloader = "pygrub"', "pygrub"),
        ('bootloader = "/usr/lib/xen-4.17/bin/pygrub"', "pygrub"),
        ('bootloader = "pypxeboot"', "netboot"),
        ('kernel = "/usr/lib/grub-xen/grub-x86_64-xen.bin"', "pvgrub"),
        ('type = "pvh"\nkernel = "/usr/lib/grub-xen/grub-i386-xen_pvh.bin"', "pvgrub"),
        ('kernel = "/boot/vmlinuz"', "direct"),
        ('type = "hvm"\nkernel = "/boot/vmlinuz"', "direct"),
        ('type = "hvm"', "firmware"),
        ('type = "hvm"\nfirmware = "bios"', "firmware"),
        ('type = "hvm"\nfirmware = "uefi"', "uefi"),
        ('builder = "hvm"\nbios = "ovmf"', "uefi"),
    ],
)
def test_the_boot_path_is_told_by_the_config(lines: str, boot: str) -> None:
    assert parse_config(f'name = "a"\n{lines}\n'.encode(), PATH).boot == boot


@pytest.mark.parametrize(
    ("item", "disk"),
    [
        ("/a,raw,xvda,rw", GuestDisk("/a", "raw", "xvda", False, False)),
        ("/a,,xvda", GuestDisk("/a", "raw", "xvda", False, False)),
        ("vdev=xvda,format=vhd,target=/a,b=c", GuestDisk("/a,b=c", "vhd", "xvda", False, False)),
        ("tap2:tapdisk:aio:/x,xvda,w", GuestDisk("/x", "raw", "xvda", False, False)),
        ("tap:qcow2:/x,xvda,r", GuestDisk("/x", "qcow2", "xvda", True, False)),
        ("format=empty, vdev=hdc, access=ro, devtype=cdrom",
         GuestDisk(None, "empty", "hdc", True, True)),
    ],
)  # fmt: skip
def test_each_form_of_a_disk_is_read(item: str, disk: GuestDisk) -> None:
    assert parse_disk(item, "x") == disk


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('name = "a"\nmemory = \n', 2),
        ('name = "a"\n\ndisk = [ "x" "y" ]\n', 3),
        ('name = "a\n', 1),
        ("name = True\n", 1),
        ('name = "a"\r\n', 1),
    ],
)
def test_a_syntax_error_names_its_line(text: str, line: int) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert f"{PATH}:{line}" in str(caught.value)


@pytest.mark.parametrize("text", ["", 'type = "pv"', 'name = "a"\ntype = "xyz"',
                                  'name="a"\nmemory="many"',
                                  'name="a"\ndisk=["/a,vmdk,xvda,w"]'])  # fmt: skip
def test_a_config_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse(text)
