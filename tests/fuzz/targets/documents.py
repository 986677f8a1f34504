"""Specs, locks, manifests, facts, domain configs, databases of guests."""

from __future__ import annotations

import json
from pathlib import Path

from oracles.domain_facts import facts_for
from oracles.manifests import artefact
from support.domains import machine

from imagekit.domain import guestdb
from imagekit.domain.facts import BuildFacts, facts_of
from imagekit.netboot import request
from imagekit.proof.libvirtxml import parse_xml
from imagekit.proof.xlcfg import parse_config
from imagekit.provision.request import read_guests
from imagekit.spec.load import load_spec
from imagekit.spec.lock import parse_lock
from imagekit.spec.manifest import Manifest, Section, manifest_text, parse_manifest

from ..target import Target
from .network import mutate_json
from .texts import YAML, changing, file_of, texts

HERE = Path("fuzz")
DIGEST = "0123456789abcdef" * 4


_SPEC = """name: web01
os: {distribution: debian, suite: bookworm}
install:
  method: debootstrap
  packages: [openssh-server, vim]
disk: {size: 2GiB, formats: [raw, qcow2]}
boot:
  modes: [pv, hvm]
  cmdline: quiet console=hvc0
identity:
  root_password: {env: ROOT}
  users: [{name: ann, gecos: Ann, ssh_keys: [ssh-ed25519 AAAA x]}]
nics: [{bridge: xenbr0, mac: "00:16:3e:00:00:01"}]
files:
  - {path: /etc/motd, content: "hello\\n"}
"""
_SPEC_WORDS = (
    *YAML,
    *("name:", "os:", "install:", "method: iso", "disk:", "size: 8GiB", "formats: [vhd]", "boot:"),
    *("modes: [pvh]", "identity:", "machine: {raw: {}}", "scripts: [a.sh]", "memory: -1", "nics:"),
)


def _spec(data: bytes) -> bool:
    with file_of(data) as path:
        load_spec(path)
    return True


_LOCK = f"""# Written by imagekit: what this build was made of.
lock: 1
name: web01
spec_sha256: {DIGEST}
method: debootstrap
source_date_epoch: 1700000000
epoch_from: releases
kernel: linux-image-6.1.0-1-amd64
sources:
- deb [signed-by=/usr/share/keyrings/x.gpg] http://deb.example/debian bookworm main
releases:
- {{suite: bookworm, origin: Debian, date: 1700000000, sha256: {DIGEST}}}
tools: {{mmdebstrap: 1.3.5}}
packages:
- name: apt
  version: 2.6.1
  architecture: amd64
  path: pool/main/a/apt/apt_2.6.1_amd64.deb
  size: 9
  sha256: {DIGEST}
installed:
- {{name: x, version: '1', architecture: all}}
"""


def _lock(data: bytes) -> bool:
    parse_lock(data, "fuzz").digest  # noqa: B018 - it is computed
    return True


def _manifests() -> list[bytes]:
    facts = Section.model_validate(facts_for(machine()).to_json())
    made = Manifest(
        name="web01",
        facts=facts,
        artefacts=(
            artefact("disk", "disk.raw", format="raw", virtual_size=1 << 30),
            artefact("kernel", "boot/vmlinuz"),
            artefact("config", "web01.pv.cfg", toolstack="xl", mode="pv"),
        ),
        tools={"qemu": "7.2"},
    )
    return [manifest_text(made).encode()]


def _manifest(data: bytes) -> bool:
    found = parse_manifest(data, "fuzz")
    for one in found.artefacts:
        assert ".." not in Path(one.path).parts
        assert not Path(one.path).is_absolute()
    if found.facts is not None:
        facts_of(found, "fuzz")
    return True


def _facts(data: bytes) -> bool:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    BuildFacts.from_json(value).located("/srv")
    return True


_XL = """# web01
name = "web01"
type = 'pv'
memory = 512
vcpus = 2
kernel = "/boot/vmlinuz"
ramdisk = "/boot/initrd"
extra = "root=/dev/xvda1 ro"
disk = [
  "format=raw, vdev=xvda, access=rw, target=/srv/xen/a.img",
  'phy:/dev/vg0/b,xvdb,w', # old
]
vif = [ "mac=00:16:3e:00:00:01,bridge=xenbr0" ]
vnc = 1
"""
_XL_WORDS = (
    *("name=", "=", "[", "]", ",", ";", "'", '"', "\\", "#", "disk", "vif", "type", "format=qcow2"),
    *(
        "target=",
        "tap:aio:",
        "file:/x",
        "0x10",
        "-1",
        "vdev=",
        "'''",
        "+=",
        "{",
        "}",
        "999999999999",
    ),
)


def _xl(data: bytes) -> bool:
    parse_config(data, HERE)
    return True


_XML = """<domain type='xen'>
  <name>web01</name>
  <uuid>5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11</uuid>
  <memory unit='KiB'>524288</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='xenpv'>linux</type><kernel>/boot/vmlinuz</kernel>
  <initrd>/boot/initrd</initrd><cmdline>ro</cmdline></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/srv/a.img'/>
    <target dev='xvda' bus='xen'/></disk>
    <interface type='bridge'><mac address='00:16:3e:00:00:01'/><source bridge='xenbr0'/></interface>
    <serial type='pty'/>
  </devices>
</domain>
"""
_XML_WORDS = (
    *(
        "<!DOCTYPE x [<!ENTITY a 'b'>]>",
        "&a;",
        "&#0;",
        "&#x41;",
        "<disk>",
        "</disk>",
        "<os>",
        "]]>",
    ),
    *(
        "<![CDATA[x]]>",
        "type='hvm'",
        "unit='GiB'",
        "<?xml version='1.0' encoding='UTF-16'?>",
        "xmlns='x'",
    ),
    *("<memory>-1</memory>", "<!--", "-->", "<xi:include href='/etc/passwd'/>", "<name/>"),
)


def _libvirt(data: bytes) -> bool:
    parse_xml(data, HERE)
    return True


_GUESTS = """hosts: [xen1.example.org, xen2.example.org]
guests:
  - {name: web01.example.org, mac: "00:16:3e:00:00:01", host: xen1.example.org, ip: 192.0.2.5}
  - name: db01.example.org
    mac: "00:16:3e:00:00:02"
    hardware: {memory_mib: 512, vcpus: 1, disk_mib: 1024}
"""


def _guests(data: bytes) -> bool:
    with file_of(data) as path:
        guestdb.load(path)
    return True


_JSON_ONLY = ("the manifest: Invalid JSON", "not JSON")

_REQUEST = f"""name: web01.example.org
mac: "00:16:3e:00:00:01"
ip: 192.0.2.5
installer: {{iso: debian.iso, sha256: {DIGEST}}}
args: auto=true
answers: preseed.cfg
secret: true
mode: install
"""


def _request(data: bytes) -> bool:
    with file_of(data) as path:
        request.load(path)
    return True


_CLONES = """defaults: {memory: 512, gateway: 192.0.2.1}
guests:
  - {name: web01, ip: 192.0.2.5/24, mac: "00:16:3e:00:00:01"}
  - name: db01
    size: 8GiB
    hostname: db01.example.org
    device: /dev/vg0/db01
    ssh_keys: [ssh-ed25519 AAAA x]
"""


def _clones(data: bytes) -> bool:
    with file_of(data) as path:
        read_guests(path)
    return True


TARGETS = (
    Target("spec", texts(_SPEC), changing(*_SPEC_WORDS), _spec, ("not YAML", "is not a mapping")),
    Target("lock", texts(_LOCK), changing(*YAML), _lock, ("is no lock: while", "Input should be")),
    Target("manifest", _manifests, mutate_json, _manifest, _JSON_ONLY),
    Target(
        "facts",
        lambda: [json.dumps(facts_for(machine()).to_json()).encode()],
        mutate_json,
        _facts,
    ),
    Target("xl-config", texts(_XL), changing(*_XL_WORDS), _xl, ("not UTF-8",)),
    Target("libvirt-xml", texts(_XML), changing(*_XML_WORDS), _libvirt, ("not XML", "not the XML")),
    Target("guest-database", texts(_GUESTS), changing(*YAML), _guests, ("not YAML",)),
    Target("netboot-request", texts(_REQUEST), changing(*YAML), _request, ("not YAML",)),
    Target("clones", texts(_CLONES), changing(*YAML), _clones, ("not YAML",)),
)
