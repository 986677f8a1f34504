"""Answers, logs, and lists: texts that are read line by line."""

from __future__ import annotations

import contextlib

from imagekit.answers.validate import Place, _autoinstall, read_preseed
from imagekit.errors import GuestError, VerificationError
from imagekit.guest.checks.console import default_with_hvc0, with_hvc0
from imagekit.guest.network.ifupdown import without_stanzas
from imagekit.guest.network.setting import _netplan_of
from imagekit.guest.osfiles import parse_fstab, parse_os_release
from imagekit.host import openpgp, signing
from imagekit.host.apt_sources import _deb822, _one_line
from imagekit.installs.stages.isosource import digest_of
from imagekit.netboot import sources
from imagekit.proof.console import clean
from imagekit.proof.diagnose import Evidence, diagnose
from imagekit.proof.findings import findings_in
from imagekit.vm.qmp import Messages

from ..target import Target
from .network import mutate_json
from .texts import YAML, changing, decoded, file_of, texts

DIGEST = "0123456789abcdef" * 4

_PRESEED = """# answers
d-i debian-installer/locale string en_US.UTF-8
d-i passwd/root-password-crypted password $6$a$b
d-i partman-auto/expert_recipe string \\
  boot-root :: 512 1 512 ext4 \\
  # a comment between
  .
tasksel tasksel/first multiselect standard, ssh-server
d-i preseed/late_command string in-target true; true
"""


def _preseed(data: bytes) -> bool:
    return bool(read_preseed(decoded(data)))


_AUTOINSTALL = """#cloud-config
autoinstall:
  version: 1
  identity: {hostname: web01, username: ann, password: $6$a$b}
  ssh: {install-server: true}
  late-commands:
    - curtin in-target -- true
    - [echo, x]
"""


def _subiquity(data: bytes) -> bool:
    _autoinstall(decoded(data), Place("fuzz"))
    return True


_CONSOLE = """[    0.000000] Linux version 6.1.0 (x) #1 SMP
[    1.5] xen_blkfront: xvda: flush diskcache: enabled
\x1b[0;1;31m[FAILED]\x1b[0m Failed to start foo.service - Foo.
[    2.0] EXT4-fs error (device xvda1): ext4_lookup:1855: inode #2: comm init: deleted inode
[    3.0] ------------[ cut here ]------------
[    3.1] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 foo+0x1/0x2
[    3.2] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1
[    3.3] Call Trace:
[    4.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
Gave up waiting for root file system device.
ALERT!  /dev/xvda1 does not exist.  Dropping to a shell!
web01 login: \r
grub rescue> \x1b]0;title\x07
A start job is running for /dev/disk/by-uuid/1 (12s / 1min 30s)
"""
_CONSOLE_WORDS = (
    *(
        "\x1b[",
        "\x1b]0;",
        "\x07",
        "[    1.0]",
        "BUG:",
        "Oops:",
        "login:",
        "Kernel panic",
        "\r",
        "\x9b",
    ),
    *(
        "Call Trace:",
        "segfault at",
        "[FAILED]",
        "emergency mode",
        "No space left on device",
        "(1min / ",
    ),
    *(
        "rcu_sched self-detected stall",
        "Out of memory: Killed process 1 (a)",
        " " * 5000,
        "(" * 900,
    ),
)


def _console(data: bytes) -> bool:
    text = clean(data)
    assert "\x1b" not in text
    found = findings_in(text)
    for created in (True, False):
        diagnose(Evidence("pv", "timeout", created, text, text, text))
    return bool(found)


_STATUS = f"""[GNUPG:] NEWSIG
[GNUPG:] KEY_CONSIDERED {DIGEST[:40].upper()} 0
[GNUPG:] SIG_ID x 2023-01-01 1672531200
[GNUPG:] GOODSIG {DIGEST[:16].upper()} A Name
[GNUPG:] VALIDSIG {DIGEST[:40].upper()} 2023-01-01 1672531200 0 4 0 1 10 00 {DIGEST[:40].upper()}
"""
_STATUS_WORDS = (
    "[GNUPG:]",
    "GOODSIG",
    "BADSIG",
    "REVKEYSIG",
    "EXPKEYSIG",
    "NEWSIG",
    "VALIDSIG",
    "\x0b",
)


def _gpgv(data: bytes) -> bool:
    text = decoded(data)
    states = openpgp._states(text)
    if openpgp._good(states):
        assert "GOODSIG" in text
        assert "BADSIG" not in {word for state in states for word in state}
    return bool(states)


_SUMS = f"{DIGEST}  a.iso\n{DIGEST} *./b.iso\nSHA256 (c.iso) = {DIGEST}\n"
_RELEASE = (
    f"Origin: Debian\nMD5Sum:\n {DIGEST[:32]} 9 x\nSHA256:\n {DIGEST} 10 main/a\n {DIGEST} 9 x\n"
)


def _sums(data: bytes) -> bool:
    text, found = decoded(data), 0
    for name in ("a.iso", "b.iso", "c.iso"):
        with contextlib.suppress(VerificationError):
            found += len(digest_of(text, name, "fuzz")) == 64
    for section in ("SHA256:", ""):
        with contextlib.suppress(VerificationError):
            found += len(sources._digest_of(text, "x", section)) == 64
    return bool(found)


_SOURCES = f"""deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://d.example/debian x main
deb http://deb.example/debian-security bookworm-security main # a comment
deb-src http://deb.example/debian bookworm main

Types: deb deb-src
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 {DIGEST}
"""


def _apt(data: bytes) -> bool:
    text = decoded(data)
    return bool(_one_line(text)) | bool(_deb822(text))


_KEYS = """# who may sign
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAA ann@x
namespaces="imagekit-bundle",valid-before="20300101" ssh-rsa AAAAB3NzaC1yc2E= bob
cert-authority ssh-ed25519 AAAA ca
expiry-time="20200101" ecdsa-sha2-nistp256 AAAA c
"""


def _keys(data: bytes) -> bool:
    with file_of(data) as path:
        lines = signing._signers(path).splitlines()
    assert all(line.startswith(signing.PRINCIPAL + " namespaces=") for line in lines)
    return True


_GUEST_FILES = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
VERSION_ID='12'
UUID=5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11 / ext4 errors=remount-ro 0 1
/dev/sda2 none swap sw 0 0
auto lo eth0
iface lo inet loopback
allow-hotplug eth1
iface eth0 inet static
  address 192.0.2.5/24
GRUB_CMDLINE_LINUX="quiet console=tty0"
linux /vmlinuz root=/dev/sda1 ro console=ttyS0
"""


def _guest_files(data: bytes) -> bool:
    text = decoded(data)
    for line in text.splitlines()[:40]:
        with_hvc0(line)
    default_with_hvc0(text)
    without_stanzas(text, ["eth0", "eth1"])
    return bool(parse_os_release(text)) | bool(parse_fstab(text))


_NETPLAN = """network:
  version: 2
  renderer: networkd
  ethernets:
    eth0: {dhcp4: true}
    lan: {match: {macaddress: "00:16:3e:00:00:01"}, addresses: [192.0.2.5/24]}
"""


def _netplan(data: bytes) -> bool:
    _netplan_of(decoded(data), "fuzz")
    return True


_QMP = """{"QMP": {"version": {"qemu": {"micro": 0}}, "capabilities": ["oob"]}}
{"return": {}, "id": "1"}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}
{"id": "2", "error": {"class": "GenericError", "desc": "no"}}
"""


def _qmp(data: bytes) -> bool:
    messages, found, step = Messages(), 0, 1 + len(data) % 97
    for at in range(0, len(data), step):
        found += len(messages.feed(data[at : at + step]))
    return bool(found)


TARGETS = (
    Target("preseed", texts(_PRESEED), changing("\\", "d-i", "string", "#"), _preseed),
    Target("autoinstall", texts(_AUTOINSTALL), changing(*YAML), _subiquity, ("not YAML",)),
    Target("console", texts(_CONSOLE), changing(*_CONSOLE_WORDS), _console),
    Target("gpgv-status", texts(_STATUS), changing(*_STATUS_WORDS), _gpgv),
    Target("checksums", texts(_SUMS, _RELEASE), changing("SHA256", "(", ")", "*", "="), _sums),
    Target(
        "apt-sources", texts(_SOURCES), changing("deb", "[", "]", "Types:", "a=b", "URIs:"), _apt
    ),
    Target("signers", texts(_KEYS), changing("ssh-rsa", '"', "namespaces=", "sk-ssh", "AA"), _keys),
    Target(
        "guest-files", texts(_GUEST_FILES), changing("iface", "auto", "=", "'", '"'), _guest_files
    ),
    Target("netplan", texts(_NETPLAN), changing(*YAML), _netplan, (), (GuestError,)),
    Target("qmp", texts(_QMP), mutate_json, _qmp),
)
