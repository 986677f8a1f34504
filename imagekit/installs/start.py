"""Everything that a build depends on besides its spec, found out once, when it starts.

Mirrors of one archive have other names on every host, and what one name stands for changes. So no
key has a name that only this host uses: it has a digest of the signed Release files (InRelease, in
https://wiki.debian.org/DebianRepository/Format) that the mirrors had when packages of this kind
were asked for first. Where that is the same, so are the packages. The newest Date of these files is
the time of the build, unless SOURCE_DATE_EPOCH or a lock gives another.

What was found is remembered in the store, so that an unchanged spec asks no mirror, and stays valid
as long as the tree that was made of it is stored. Signatures are apt's business: it checks them
when it fetches packages, and a wrong file here gives a key of which nothing is stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imagekit.errors import HostError, SpecError, ToolError
from imagekit.host.apt_sources import ANSWER_SECONDS, host_archive, without_credentials
from imagekit.host.opening import read_bounded
from imagekit.host.run import run
from imagekit.host.strangers import make_folder, require_private_path
from imagekit.installs.context import BuildContext, context_for
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.preflight import check_spec
from imagekit.installs.stages.archive import APT_HELPER, apt_credentials
from imagekit.installs.stages.provenance import fields
from imagekit.installs.tree_packages import tree_install, wanted_packages
from imagekit.pipeline.events import Events
from imagekit.pipeline.plan import Plan
from imagekit.pipeline.stage import digest_json
from imagekit.pipeline.workspace import HINT, cache_root, workspace
from imagekit.spec.derived import DEFAULT_EPOCH
from imagekit.spec.install import Debootstrap, DiskimageBuilder
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock

FOLDER = "archives"
REMEMBERED = 1000
NAMES = ("InRelease", "Release")
"""The signed Release file, and, of archives that have none, the one with a signature beside it."""
MAX_RELEASE_BYTES = 4 << 20
ASK_SECONDS = 120.0
NOT_TOLD = f"not told {secrets.token_hex(8)}"
"""In keys where a mirror does not answer: of this process alone, so that nothing stale is used."""


@dataclass(frozen=True)
class ArchiveState:
    """What mirrors hold: a digest of their Release files, and the newest Date, in seconds."""

    sha256: str
    date: int


def start(
    file: SpecFile,
    out: Path,
    environment: Mapping[str, str],
    *,
    lock: Lock | None = None,
    debs: Path | None = None,
    fresh: bool = False,
    unique: str = "",
) -> BuildContext:
    """What building ``file`` depends on: :func:`context_for`, the host's mirrors, and a time.

    ``fresh`` asks the mirrors, whatever is remembered. ``unique`` is as in BuildContext. Raises
    SpecError, also for what :func:`check_spec` refuses, and HostError.
    """
    if debs is None:
        # Not for a bundle, on the day when it is needed: what it holds was built once.
        check_spec(file)
    context = context_for(file, out, environment, lock=lock, debs=debs)
    context = replace(context, host=host_archive(file.spec.os.distribution), unique=unique)
    state = _state(context, fresh=fresh) if _fetches(context) else None
    if _fetches(context):
        context = replace(context, archive=state.sha256 if state else NOT_TOLD)
    if context.epoch is not None:
        return context
    if state is not None and state.date:
        return replace(context, epoch=state.date, epoch_from="archive")
    return replace(context, epoch=DEFAULT_EPOCH, epoch_from="default")


def is_outdated(plan: Plan, runs: Mapping[str, bool]) -> bool:
    """Whether a stage of ``plan`` that ``runs`` fetches packages: then mirrors must be asked.

    ``runs`` maps names of stages to whether they run. What was remembered belonged to a tree that
    is no longer stored.
    """
    return any(runs.get(p.stage.name) and "archive" in p.parts for p in plan.stages)


def _fetches(context: BuildContext) -> bool:
    """Whether packages come from mirrors, as these have them now."""
    install = context.spec.install
    if isinstance(install, DiskimageBuilder):
        return True
    return isinstance(install, Debootstrap) and context.lock is None


def _state(context: BuildContext, *, fresh: bool) -> ArchiveState | None:
    file = context.file
    mirrors = mirrors_for(file, context.host)
    install = tree_install(file.spec)
    request = digest_json(
        {
            "os": file.spec.os.model_dump(mode="json", exclude={"proxy", "keyring"}),
            "mirrors": mirrors.public(),
            "tool": [install.tool, install.variant, *install.elements],
            "packages": wanted_packages(file.spec),
        }
    )
    known = None if fresh else _remembered(request)
    if known is not None:
        return known
    with workspace(Events()) as space:
        found = ask(mirrors, file.spec.os.proxy, space.temporary("archive"))
    if found is not None:
        _remember(request, found)
    return found


def ask(mirrors: Mirrors, proxy: str | None, scratch: Path) -> ArchiveState | None:
    """What ``mirrors`` hold now, or the distribution's own, which tools choose; None if they do not
    tell. ``scratch`` is an empty directory. Suites beside the first may be missing.
    """
    rows, dates = [], [0]
    for index, (url, suite) in enumerate(mirrors.sources or mirrors.guest):
        data = _release(url, suite, mirrors, proxy, scratch / str(index))
        if data is None and index == 0:
            return None
        rows.append([suite, hashlib.sha256(data or b"").hexdigest()])
        dates.append(_date(data or b""))
    return ArchiveState(digest_json(rows), max(dates))


def _release(
    url: str, suite: str, mirrors: Mirrors, proxy: str | None, scratch: Path
) -> bytes | None:
    """The signed Release file of ``suite`` at ``url``, by apt's own way to it."""
    parts = urlsplit(url)
    if parts.scheme in ("file", "copy"):
        folder = Path(unquote(parts.path)) / "dists" / suite
        return next((data for name in NAMES if (data := _read(folder / name))), None)
    scratch.mkdir()
    auth, config, target = scratch / "auth.conf", scratch / "apt.conf", scratch / "Release"
    auth.touch(mode=0o600)
    auth.write_text(apt_credentials(mirrors))
    config.write_text(
        f'Dir::Etc::netrc "{auth}";\nAPT::Sandbox::User "root";\nAcquire::Retries "0";\n'
        f'Acquire::http::Timeout "{ANSWER_SECONDS:.0f}";\n'
    )
    env = {"APT_CONFIG": str(config)}
    env |= dict.fromkeys(("http_proxy", "https_proxy"), proxy) if proxy else {}
    for name in NAMES:
        where = f"{without_credentials(url).rstrip('/')}/dists/{suite}/{name}"
        limit = f"--fsize={MAX_RELEASE_BYTES}"
        argv = ["prlimit", limit, APT_HELPER, "download-file", where, str(target)]
        with contextlib.suppress(ToolError):
            run(argv, env=env, timeout=ASK_SECONDS)
            data = _read(target)
            if data:
                return data
        target.unlink(missing_ok=True)  # the part that was fetched
    return None


def _read(path: Path) -> bytes | None:
    """A regular file of at most 4 MiB; links are followed, as mirrors have them for suites."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return read_bounded(fd, MAX_RELEASE_BYTES, path)
    except (OSError, SpecError, HostError):
        return None
    finally:
        os.close(fd)


def _date(data: bytes) -> int:
    """The Date of a Release file, seconds since 1970; 0 where it has none that a lock can hold."""
    try:
        date = int(parsedate_to_datetime(fields(data).get("Date", "")).timestamp())
    except (ValueError, TypeError, OverflowError):
        return 0
    return date if 0 < date <= 1 << 34 else 0


def _folder() -> Path:
    folder = cache_root() / "store" / FOLDER
    os.close(make_folder(folder, 0o700))
    require_private_path(folder, HINT)
    return folder


def _remembered(request: str) -> ArchiveState | None:
    path = _folder() / request
    try:
        value = json.loads(path.read_text())
        state = ArchiveState(str(value["sha256"]), int(value["date"]))
        os.utime(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


def _remember(request: str, state: ArchiveState) -> None:
    """Write it down; the oldest ones go when there are too many. It must not fail."""
    with contextlib.suppress(OSError):
        path = _folder() / request
        part = path.with_name(f".{os.getpid()}-{secrets.token_hex(6)}")
        part.write_text(json.dumps(vars(state)))
        part.replace(path)
        known = sorted(path.parent.iterdir(), key=lambda p: p.lstat().st_mtime)
        for old in known[:-REMEMBERED]:
            old.unlink(missing_ok=True)
