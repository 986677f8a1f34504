"""A Debian archive of a few packages, one of which attacks whoever installs it.

The system is the tree of a real build, as one essential package; what every guest is asked to have
beside it are packages without files.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from oracles.tiny_installer import KEPT_DRIVERS, LEFT_OUT

from imagekit.installs.elements.planning import NEEDED
from imagekit.installs.tree_packages import BASE

EMPTY = (*BASE, *NEEDED, "linux-image-amd64", "systemd-resolved", "apt")
NOT_PACKED = (*LEFT_OUT, "var/lib/dpkg", "boot/initrd.img-*", "usr/share/perl", "usr/lib/python3")
DATE = 1_700_000_000
ATTACK = "/usr/libexec/attack"
HOOK = f"""#!/bin/sh
case $1 in prereqs) exit 0 ;; esac
{ATTACK} initramfs-hook
exit 0
"""


def control(name: str, **more: str) -> str:
    """The text of DEBIAN/control; underscores in names stand for dashes."""
    fields = {"Package": name, "Version": "1", "Architecture": "amd64", **more}
    fields |= {"Maintainer": "nobody <nobody@example.org>", "Description": "for a test"}
    return "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items())


def make_package(root: Path, pool: Path, name: str, **more: str) -> None:
    """Pack ``root`` as the package ``name`` into ``pool``."""
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (root / "DEBIAN/control").write_text(control(name, **more))
    argv: list[str | Path] = ["dpkg-deb", "-Znone", "--build", root, pool / f"{name}_1_amd64.deb"]
    subprocess.run(argv, check=True, capture_output=True)


def write(path: Path, text: str, mode: int = 0o755) -> None:
    """Write a file below directories that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def system_package(tree_tar: Path, scratch: Path, pool: Path) -> None:
    """Everything of a Debian tree that a build needs, as one essential package."""
    root = scratch / "system"
    root.mkdir(mode=0o755)
    left_out = [f"--exclude=./{name}/*" for name in NOT_PACKED] + ["--exclude=./boot/initrd.img-*"]
    subprocess.run(["tar", "-xf", tree_tar, "-C", root, *left_out], check=True)
    modules = root / "usr/lib/modules"
    for path in modules.rglob("*.ko"):
        if not KEPT_DRIVERS.match(re.sub(r"^[^/]+/", "", str(path.relative_to(modules)))):
            path.unlink()
    (release,) = [p.name for p in modules.iterdir()]
    subprocess.run(["depmod", "-b", root, release], check=True)
    make_package(root, pool, "hostile-system", Essential="yes", Priority="required")
    shutil.rmtree(root)


def attacking_packages(attack: Path, scratch: Path, pool: Path) -> None:
    """``hostile``, whose maintainer scripts and initramfs hook attack, and one that triggers it."""
    root = scratch / "hostile"
    for name in ("DEBIAN/preinst", "DEBIAN/postinst", ATTACK.lstrip("/")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(attack, root / name)
        (root / name).chmod(0o755)
    write(root / "usr/share/initramfs-tools/hooks/hostile", HOOK)
    write(root / "DEBIAN/triggers", "interest-noawait /etc/hostile.d\n", 0o644)
    library = root / "usr/lib/hostile.so"
    library.parent.mkdir(parents=True)
    source = Path(__file__).parent / "attack/preload.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    make_package(root, pool, "hostile")
    write(scratch / "bomb/DEBIAN/postinst", f"#!/bin/sh\nexec {ATTACK} x fork-bomb\n")
    make_package(scratch / "bomb", pool, "hostile-bomb", Depends="hostile")
    write(scratch / "more/etc/hostile.d/one", "", 0o644)
    make_package(scratch / "more", pool, "hostile-more", Pre_Depends="hostile")


def publish(root: Path, home: Path, keyring: Path) -> None:
    """Write the signed index of the packages in ``root``/pool."""
    index = root / "dists/bookworm/main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    stanzas = []
    for path in sorted((root / "pool").iterdir()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        show = subprocess.run(["dpkg-deb", "-f", path], capture_output=True, text=True, check=True)
        stanzas.append(
            f"{show.stdout.rstrip()}\nFilename: pool/{path.name}\nSize: {path.stat().st_size}\n"
            f"SHA256: {digest}\n"
        )
    text = "\n".join(stanzas)
    index.write_text(text)
    release = root / "dists/bookworm/Release"
    release.write_text(
        "Origin: test\nSuite: bookworm\nCodename: bookworm\nArchitectures: amd64\n"
        f"Components: main\nDate: {formatdate(DATE, usegmt=True)}\nSHA256:\n"
        f" {hashlib.sha256(text.encode()).hexdigest()} {len(text)} main/binary-amd64/Packages\n"
    )
    home.mkdir(mode=0o700)
    gpg: list[str | Path] = ["gpg", "--homedir", home, "--batch", "--yes", "--quiet"]
    name = ["--passphrase", "", "--quick-generate-key", "archive", "ed25519", "sign"]
    for more in (
        name,
        ["--output", keyring, "--export", "archive"],
        ["--output", release.with_name("InRelease"), "--clearsign", release],
    ):
        subprocess.run([*gpg, *more], check=True, capture_output=True)
    stop: list[str | Path] = ["gpgconf", "--homedir", home, "--kill", "all"]
    subprocess.run(stop, check=True, capture_output=True)


@contextmanager
def archive(tree_tar: Path, attack: Path, directory: Path) -> Iterator[Mapping[str, str]]:
    """Serve the archive on loopback; what a spec's ``os`` says of it."""
    root, scratch = directory / "archive", directory / "scratch"
    (root / "pool").mkdir(parents=True)
    scratch.mkdir()
    system_package(tree_tar, scratch, root / "pool")
    attacking_packages(attack, scratch, root / "pool")
    # diskimage-builder's programs for lists of packages are run by it; there are no such lists.
    write(scratch / "python3/usr/bin/python3", "#!/bin/sh\nexit 0\n")
    for name in EMPTY:
        make_package(scratch / name, root / "pool", name)
    shutil.rmtree(scratch)
    publish(root, directory / "gnupg", directory / "archive.gpg")
    handler = functools.partial(Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        yield {"mirror": f"http://127.0.0.1:{port}", "keyring": str(directory / "archive.gpg")}
        server.shutdown()
    shutil.rmtree(root)


class Quiet(SimpleHTTPRequestHandler):
    """A server that logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
