"""Locked packages: fetched by pool path and digest, or taken from a directory; made a repository.

The packages are pinned by SHA-256, so neither the mirror nor the way is trusted, and no signature
is needed beyond the lock's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, urlsplit

from imagekit.errors import DownloadError, HostError, SpecError, VerificationError
from imagekit.host.apt_sources import without_credentials
from imagekit.host.opening import Held, regular
from imagekit.host.run import run
from imagekit.host.strangers import open_folder
from imagekit.installs.mirrors import Mirrors
from imagekit.pipeline.pool import FilePool
from imagekit.pipeline.stage import digest_file
from imagekit.spec.lock import Lock, LockedPackage

APT_HELPER = "/usr/lib/apt/apt-helper"
BATCH = 100


def collect(
    lock: Lock,
    directory: Path,
    mirrors: Mirrors,
    debs: Path | None,
    env: Mapping[str, str],
    pool: FilePool | None = None,
) -> None:
    """Put every package of ``lock`` into the empty ``directory``, under its ``filename``.

    They come from ``debs`` when it is given, and then from nowhere else; or from ``pool``, and from
    ``mirrors`` what is not there, which ``pool`` then keeps. Raises VerificationError for a wrong
    digest, DownloadError naming what is gone.
    """
    if debs is not None:
        for package in lock.packages:
            source = debs / package.filename
            if source.is_symlink() or not source.is_file():
                raise VerificationError(
                    f"the package {package.filename} is missing", where=str(debs)
                )
            shutil.copyfile(source, directory / package.filename)
    else:
        missing = [
            package
            for package in lock.packages
            if pool is None or not pool.copy(package.sha256, directory / package.filename)
        ]
        if missing:
            _download(missing, directory, mirrors, env)
    for package in lock.packages:
        path = directory / package.filename
        if digest_file(path) != package.sha256:
            raise VerificationError(
                f"{package.filename} is not what the lock names",
                hint="take it from where the lock's build took it",
            )
    if pool is not None:
        keep_packages(directory, [(p.filename, p.sha256) for p in lock.packages], pool)


def keep_packages(directory: Path, packages: Iterable[tuple[str, str]], pool: FilePool) -> None:
    """Keep files of ``directory``, by name and digest, for the next build, and for bundles.

    It may hold anything: other files are left, and so are links. A full disk keeps nothing.
    """
    with contextlib.suppress(OSError), contextlib.closing(Held(open_folder(directory))) as held:
        for name, sha256 in packages:
            if not pool.has(sha256):
                with (
                    contextlib.suppress(FileNotFoundError, SpecError, HostError),
                    regular(held.fd, name) as fd,
                    os.fdopen(os.dup(fd), "rb") as stream,
                ):
                    pool.keep(stream, sha256)


def _download(
    packages: Sequence[LockedPackage], directory: Path, mirrors: Mirrors, env: Mapping[str, str]
) -> None:
    if not mirrors.sources:
        raise SpecError("a locked build needs a mirror", hint="name os.mirror in the spec")
    auth = directory / ".auth.conf"
    config = directory / ".apt.conf"
    auth.touch(mode=0o600)
    auth.write_text(apt_credentials(mirrors))
    config.write_text(f'Dir::Etc::netrc "{auth}";\nAPT::Sandbox::User "root";\n')
    missing = list(packages)
    bases = list(dict.fromkeys(url for url, _suite in mirrors.sources))
    for attempt in range(len(bases)):
        jobs = []
        for package in missing:
            own = [url for url, suite in mirrors.sources if suite == package.suite]
            order = list(dict.fromkeys([*own, *bases]))
            url = f"{without_credentials(order[attempt])}/{quote(package.path, safe='/+~%:')}"
            jobs += [url, str(directory / package.filename), f"SHA256:{package.sha256}"]
        for start in range(0, len(jobs), 3 * BATCH):
            run(
                [APT_HELPER, "download-file", *jobs[start : start + 3 * BATCH]],
                env={**env, "APT_CONFIG": str(config)},
                check=False,
                timeout=3600,
            )
        missing = [p for p in missing if not (directory / p.filename).is_file()]
        if not missing:
            break
    auth.unlink()
    config.unlink()
    if missing:
        shown = ", ".join(f"{p.name} {p.version}" for p in missing[:5])
        raise DownloadError(
            f"the mirrors no longer have {len(missing)} locked package(s): {shown}",
            hint="imagekit lock update takes what they have now; a bundle keeps its packages",
        )


def apt_credentials(mirrors: Mirrors) -> str:
    """apt_auth.conf(5) lines for the mirrors' passwords: arguments show in the process list."""
    lines = []
    for url, _suite in mirrors.sources:
        parts = urlsplit(url)
        if parts.username:
            where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            lines.append(f"machine {where} login {parts.username} password {parts.password or ''}")
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def make_repository(lock: Lock, directory: Path, suite: str, arch: str, shown: str) -> str:
    """Index the packages in ``directory`` as ``suite``; returns its sources.list(5) line.

    ``shown`` is where apt sees the directory.
    """

    def stanza(package: LockedPackage) -> str:
        text = run(["dpkg-deb", "-f", str(directory / package.filename)], timeout=60).text
        lines, keep = [], True
        for line in text.splitlines():
            # The archive's index overrides a package's own priority; mmdebstrap goes by it.
            keep = keep if line[:1].isspace() else not line.lower().startswith("priority:")
            if keep and line.strip():
                lines.append(line)
        lines += [f"Priority: {package.priority}", f"Filename: {package.filename}"]
        lines += [f"Size: {package.size}", f"SHA256: {package.sha256}"]
        return "\n".join(lines) + "\n"

    with ThreadPoolExecutor(2) as pool:
        index = "\n".join(pool.map(stanza, lock.packages)).encode()
    name = f"main/binary-{arch}/Packages"
    root = directory / "dists" / suite
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(index)
    digest = hashlib.sha256(index).hexdigest()
    # mmdebstrap looks for essential packages in the archive of this suite or codename.
    (root / "Release").write_text(
        f"Suite: {suite}\nCodename: {suite}\nArchitectures: {arch}\nComponents: main\n"
        f"Date: {formatdate(lock.source_date_epoch, usegmt=True)}\n"
        f"SHA256:\n {digest} {len(index)} {name}\n"
    )
    # apt's methods may run as the user _apt.
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return f"deb [trusted=yes] copy:{shown} {suite} main"
