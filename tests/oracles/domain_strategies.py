"""Hypothesis strategies for domUs, with text chosen to break quoting.

``attempts`` draws keyword arguments of Domain, most of them valid and some hostile enough that
Domain refuses; ``domains`` draws those that it takes.
"""

from __future__ import annotations

from typing import Any, Literal

from hypothesis import strategies as st

from imagekit.domain import model
from imagekit.errors import SpecError

NASTY = "aZ0._-/\"'\\,=;#$%`(){}[]<>&|:!^~*?@ \té雪🐧"
FATAL = "\n\r\0\x1b\x7f\x85\ud800\ufffe\u2028"
WORDS = [
    "\\n",
    "\\x41",
    "\\101",
    '"""',
    "]]>",
    "root=UUID=0f5e ro console=hvc0",
    ", target=",
    "format=qcow2",
    "vdev=xvdz",
    "&amp;",
    "$(reboot)",
    "x" * 1100,
]

_nasty = st.text(NASTY, max_size=12)
_fatal = st.text(NASTY + FATAL, max_size=6) | st.text(max_size=6)
TEXT = st.one_of(*[_nasty] * 20, *[st.sampled_from(WORDS)] * 3, _fatal)
_tail = st.one_of(*[st.text(NASTY.replace("\t", ""), max_size=8)] * 30, _fatal)
PATHS = st.builds(
    lambda root, tail: f"{root}{tail}x",
    st.sampled_from(["/srv/xen/", "/dev/vg0/", "/", "/srv/a,b=c/"]),
    _tail,
)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_byte = st.integers(0, 255)
_flag = st.booleans()
_rates = _maybe(
    st.builds(
        model.Rate,
        st.integers(20, 2**32) | st.sampled_from([125_000, 12_500_000, 1_024_000]),
        st.sampled_from([50_000, 50_000, 50_000, 50_000, 20_000, 1_000_000, 12_345]),
    )
)
_bridges = st.sampled_from(["xenbr0", "br-lan", "eth0", "ovs0"] * 8 + ["x,y", "br 0"])
_ovs_bridges = st.sampled_from(["ovs0", "ovs0.7", "ovs0:1:2", "ovs0.3:9"])
_ips = st.sampled_from([(), ("192.0.2.7",), ("2001:db8::7", "192.0.2.8")])
_scripts = st.sampled_from(
    [None, None, "vif-bridge", "vif-route", "vif-nat", "vif-openvswitch", "/opt/s.sh"]
)
_VifType = Literal["vif", "ioemu"]
_hvm_types: st.SearchStrategy[_VifType | None] = st.sampled_from([None, "vif", "ioemu"])
_pv_types: st.SearchStrategy[_VifType | None] = st.sampled_from([None, None, "vif"])
_models = _maybe(st.sampled_from(["e1000", "rtl8139", "virtio-net"]))
_gateways = _maybe(st.just("eth0"))


@st.composite
def nics(draw: st.DrawFn, mode: str, number: int) -> model.Nic:
    """One NIC with a MAC of its own."""
    script = draw(_scripts)
    addresses = draw(_ips)
    if script == "vif-route" and not addresses:
        addresses = ("192.0.2.7",)
    if script == "vif-nat":
        addresses = addresses[:1] if addresses != ("2001:db8::7", "192.0.2.8") else ()
    hvm = mode == "hvm"
    kind = draw(_hvm_types if hvm else _pv_types)
    bridge = None
    if script not in ("vif-route", "vif-nat"):
        bridge = draw(_ovs_bridges if script == "vif-openvswitch" else _bridges)
    return model.Nic(
        mac=f"00:16:3e:{draw(_byte):02x}:00:{number:02x}",
        bridge=bridge,
        ips=addresses,
        model=draw(_models) if hvm and kind != "vif" else None,
        script=script,
        rate=draw(_rates),
        type=kind,
        gatewaydev=draw(_gateways) if script in ("vif-route", "/opt/s.sh") else None,
        name=f"web{number}" if draw(_flag) else None,
    )


_formats = st.sampled_from(["raw", "raw", "qcow2", "vhd"])
_buses = st.sampled_from(["xvd", "xvd", "xvd", "hd", "sd"])
_backends: dict[str, st.SearchStrategy[Literal["phy", "qdisk", "tap"] | None]] = {
    "raw": st.sampled_from([None, None, "qdisk", "phy", "tap"]),
    "qcow2": st.sampled_from([None, None, "qdisk"]),
    "vhd": st.sampled_from([None, None, "qdisk", "tap"]),
}
_partitions = st.sampled_from(["", "", "1"])
_empty_or_path = _maybe(PATHS)


@st.composite
def disks(draw: st.DrawFn, mode: str, number: int) -> model.Disk:
    """The disk number ``number``, under a name that fits the mode."""
    hvm = mode == "hvm"
    if hvm and number in (2, 3) and draw(_flag):
        target = draw(_empty_or_path)
        return model.Disk(target, "raw", f"hd{'abcd'[number]}", readonly=True, cdrom=True)
    bus = draw(_buses)
    if bus == "hd" and number > 3:
        bus = "xvd"
    kind = draw(_formats)
    partition = "" if hvm or bus == "hd" else draw(_partitions)
    return model.Disk(
        draw(PATHS),
        kind,  # type: ignore[arg-type]
        f"{bus}{'abcdefgh'[number]}{partition}",
        readonly=draw(_flag) if not hvm or bus == "sd" or number > 3 else False,
        backend=draw(_backends[kind]),
    )


_direct: st.SearchStrategy[Any] = st.builds(model.DirectKernel, PATHS, _empty_or_path, TEXT)
_arguments = st.lists(TEXT, max_size=3).map(tuple)
_pv_boots: st.SearchStrategy[Any] = st.one_of(
    _direct,
    st.builds(model.Pygrub, _arguments),
    st.builds(model.Pvgrub, PATHS),
    st.builds(model.Netboot, st.just("pypxeboot") | PATHS, _arguments),
)
_hvm_boots: st.SearchStrategy[Any] = _direct | st.builds(
    model.Firmware,
    st.sampled_from(["bios", "uefi"]),
    st.sampled_from(["c", "cd", "dc", "n", "ncd", "acnd"]),
)
_screens = _maybe(
    st.builds(
        model.Vnc,
        st.sampled_from(["127.0.0.1", "192.0.2.1"]),
        _maybe(st.integers(0, 200)),
        _maybe(st.text("abc\"'\\=<&[#;$]>%", min_size=1, max_size=8)),
        _maybe(st.sampled_from(["de", "en-us", "fr-ch"])),
    )
)
_cpus = st.builds(
    model.Cpu,
    _maybe(st.integers(1, 65535)),
    st.sampled_from([None, None, None, 50, 400]),
    st.lists(st.integers(0, 200), max_size=5).map(lambda n: tuple(sorted(set(n)))),
)
_names = st.sampled_from(["web1", "a.b-c_d+e:f", "0x1", "Web", "w" * 64] * 12 + ["7", "a b", "x\n"])
_plain = ["destroy", "restart", "rename-restart", "preserve"]
_actions = st.sampled_from([*_plain * 3, "coredump-restart"])
_crash_actions = st.sampled_from([*_plain, "coredump-destroy", "coredump-restart"])
_modes = st.sampled_from(["pv", "pvh", "hvm"])
_memory, _more_memory = st.integers(1, 2**20), _maybe(st.integers(0, 2**16))
_vcpus, _more_vcpus = st.integers(1, 64), _maybe(st.integers(0, 64))
_uuids = st.uuids(version=4).map(str)
_arches = st.sampled_from(["x86_64", "i386"])
_disk_counts, _nic_counts = st.integers(0, 6), st.integers(0, 3)
_disks = {(m, n): disks(m, n) for m in ("pv", "pvh", "hvm") for n in range(6)}
_nics = {(m, n): nics(m, n) for m in ("pv", "pvh", "hvm") for n in range(3)}


@st.composite
def _attempts(draw: st.DrawFn) -> dict[str, Any]:
    mode = draw(_modes)
    memory, more_memory = draw(_memory), draw(_more_memory)
    vcpus, more_vcpus = draw(_vcpus), draw(_more_vcpus)
    boot = draw(_hvm_boots if mode == "hvm" else _pv_boots)
    least = 1 if isinstance(boot, model.Pygrub | model.Netboot) else 0
    return {
        "name": draw(_names),
        "uuid": draw(_uuids),
        "mode": mode,
        "memory_mib": memory,
        "maxmem_mib": None if more_memory is None else memory + more_memory,
        "vcpus": vcpus,
        "maxvcpus": None if more_vcpus is None else vcpus + more_vcpus,
        "boot": boot,
        "disks": tuple(draw(_disks[mode, n]) for n in range(max(least, draw(_disk_counts)))),
        "nics": tuple(draw(_nics[mode, n]) for n in range(draw(_nic_counts))),
        "arch": draw(_arches),
        "graphics": draw(_screens),
        "serial": "pty" if mode == "hvm" and draw(_flag) else None,
        "on_poweroff": draw(_actions),
        "on_reboot": draw(_actions),
        "on_crash": draw(_crash_actions),
        "cpu": draw(_cpus),
    }


_all_attempts = _attempts()


def attempts() -> st.SearchStrategy[dict[str, Any]]:
    """Keyword arguments for Domain, with or without luck."""
    return _all_attempts


def build(arguments: dict[str, Any]) -> model.Domain | None:
    """The domain, or None where Domain refuses with the error meant for users."""
    try:
        return model.Domain(**arguments)
    except SpecError as error:
        assert error.where
        return None


def domains() -> st.SearchStrategy[model.Domain]:
    """Valid domains."""
    return attempts().map(build).filter(lambda domain: domain is not None)  # type: ignore[return-value]
