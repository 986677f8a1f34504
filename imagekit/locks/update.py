"""Moves a lock to what the mirrors have now: all of it, or some packages and what they need.

apt itself decides, on a system that exists as a dpkg status file only (deb-status format of
dpkg(1), apt.conf(5)); no package is installed, and only those are downloaded of which the mirrors'
lists no longer tell the dependencies.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import DownloadError, SpecError, ToolError
from imagekit.host.run import run
from imagekit.installs.elements.locked import locked_elements
from imagekit.installs.elements.planning import plan_elements
from imagekit.installs.mirrors import Mirrors, mirrors_for
from imagekit.installs.stages.archive import collect
from imagekit.installs.stages.lockfile import input_digests, lock_tools
from imagekit.installs.stages.mirrorfailures import explain
from imagekit.installs.stages.provenance import MAX_LIST_BYTES, fields, provenance, stanzas
from imagekit.installs.tree_packages import wanted_packages
from imagekit.pipeline.stage import digest_file
from imagekit.pipeline.store import Store
from imagekit.pipeline.workspace import Workspace
from imagekit.spec.derived import disk_seed
from imagekit.spec.load import SpecFile
from imagekit.spec.lock import Lock, LockedPackage
from imagekit.spec.nearest import did_you_mean

PRIORITIES = {
    "essential": (),
    "apt": (),
    "minbase": ("required",),
    "important": ("required", "important"),
    "standard": ("required", "important", "standard"),
}
"""Which packages the variants of mmdebstrap(1) hold besides the essential ones."""
_INST = re.compile(r"(?m)^Inst (\S+?)(?::\S+)? (?:\[[^\]]*\] )?\((\S+) .*\[(\S+)\]\)")
_REMV = re.compile(r"(?m)^Remv (\S+?)(?::\S+)? \[")
_NOT_IN_STATUS = ("Filename:", "Size:", "MD5sum:", "SHA1:", "SHA256:", "Status:")


@dataclass(frozen=True)
class _Archive:
    """apt's view of the mirrors: its configuration, the lists, and the status file to fill."""

    directory: Path
    env: Mapping[str, str]
    log: Path
    file: SpecFile
    mirrors: Mirrors

    @property
    def lists(self) -> Path:
        return self.directory / "lists"

    def apt(self, *args: str, words: bool = False) -> str:
        """Run apt-get; raises what :func:`explain` makes of its failure.

        ``words`` says that a failure is apt's verdict on the packages, not on the mirrors.
        """
        argv = ["apt-get", "-q", "-y", *args]
        try:
            return run(argv, env=self.env, log=self.log, timeout=3600, what="apt-get").text
        except ToolError as error:
            if not words:
                raise explain(error, self.file, self.log, self.mirrors) from None
            lines = [x for x in error.output.splitlines() if x.startswith((" ", "E:"))]
            raise SpecError(
                "the packages cannot be brought together:\n" + "\n".join(lines[:20]),
                hint="imagekit lock update without a package moves all of them",
            ) from None


def update_lock(
    lock: Lock, file: SpecFile, names: Sequence[str], *, workspace: Workspace
) -> tuple[Lock, list[str]]:
    """``lock`` for ``file``, with ``names`` and what they need as the mirrors have them now.

    Without names all packages are. Everything else stays, but for packages that nobody needs any
    more, and for those that are gone from the mirrors, which the second value names. Raises
    SpecError for names that are not in the lock and for what cannot be brought together,
    DownloadError and VerificationError for mirrors, HostError.
    """
    mirrors = _checked(lock, file, names)
    elements = plan_elements(file, mirrors)
    wanted = {*wanted_packages(file.spec), *(elements.packages if elements else ())}
    archive = _archive(file, mirrors, workspace)
    archive.apt("update", "-o", "APT::Update::Error-Mode=any")
    gone: list[str] = []
    if names:
        old, gone = _installed(lock, archive, mirrors, workspace)
        rows = _solved(archive, lock, old, {*names, *gone}, wanted)
    else:
        rows = _anew(archive, wanted)
    found = provenance(archive.lists, _changed(lock, rows))
    kept = {(p.name, p.version, p.architecture): p for p in lock.packages}
    new = {(p["name"], p["version"], p["architecture"]): p for p in found["packages"]}
    packages = [
        new[row] if row in new else kept[row].model_dump(mode="json") for row in sorted(rows)
    ]
    releases = found["releases"]
    if names:
        releases = _joined([r.model_dump(mode="json") for r in lock.releases], releases)
    value = {
        **lock.model_dump(mode="json"),
        "spec_sha256": file.image_sha256,
        "keyring_sha256": digest_file(mirrors.keyring),
        "sources": mirrors.guest_lines(),
        "inputs": input_digests(file),
        "elements": [e.model_dump(mode="json") for e in locked_elements(file, elements)],
        "tools": lock_tools(),
        "packages": packages,
        "releases": releases,
        "kernel": _kernel(lock.kernel, [p["name"] for p in packages]),
    }
    return Lock.model_validate({**value, **_times(lock, file, releases)}), gone


def _times(lock: Lock, file: SpecFile, releases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Epoch and seed of the new lock: one that was asked for stays, others follow."""
    epoch, origin = lock.source_date_epoch, lock.epoch_from
    if origin not in ("environment", "packages"):
        epoch, origin = max(r["date"] for r in releases), "archive"
    derived = lock.seed in ("", disk_seed(lock.spec_sha256, lock.source_date_epoch))
    seed = disk_seed(file.image_sha256, epoch) if derived else lock.seed
    return {"source_date_epoch": epoch, "epoch_from": origin, "seed": seed}


def _checked(lock: Lock, file: SpecFile, names: Sequence[str]) -> Mirrors:
    """The mirrors to ask; raises SpecError for what cannot be updated."""
    if file.spec.install.method != "debootstrap":
        raise SpecError(
            f"the lock of a {file.spec.install.method} build has no packages to choose from",
            where=file.where("install", "method"),
            hint="build without --locked, which writes a new lock",
        )
    mirrors = mirrors_for(file)
    if not mirrors.sources:
        raise SpecError("an update needs a mirror", where=file.where("os"), hint="name os.mirror")
    known = {p.name for p in lock.packages}
    for name in names:
        if name not in known:
            raise _unknown_package(name, known, file)
    return mirrors


def _unknown_package(name: str, known: Collection[str], file: SpecFile) -> SpecError:
    if "/" in name or name.endswith((".lock", ".yaml", ".yml")):
        return SpecError(
            f"{name!r} is not the name of a package",
            where="PACKAGE",
            hint="the spec is named by --spec, the lock by --lock, the new lock by --output",
        )
    return SpecError(
        f"the lock has no package {name}, so there is nothing to update{did_you_mean(name, known)}",
        where="PACKAGE",
        hint=f"to add it, write it into {file.where('install', 'packages')}; imagekit lock update "
        "without a package then locks it",
    )


Row = tuple[str, str, str]
"""Name, version, architecture."""


def _archive(file: SpecFile, mirrors: Mirrors, workspace: Workspace) -> _Archive:
    base = workspace.temporary("apt")
    for name in ("lists/partial", "archives/partial", "parts", "preferences.d"):
        (base / name).mkdir(parents=True)
    keyring = base / f"archive{mirrors.keyring.suffix or '.gpg'}"
    keyring.write_bytes(mirrors.keyring.read_bytes())
    sources = base / "sources.list"
    sources.touch(mode=0o600)
    sources.write_text("\n".join(mirrors.lines(keyring)) + "\n")
    (base / "status").touch()
    arch = file.spec.os.arch
    config = base / "apt.conf"
    config.write_text(
        f'Dir "{base}"; Dir::Etc "{base}"; Dir::Etc::Parts "parts"; Dir::Etc::sourceparts "-";\n'
        f'Dir::Etc::sourcelist "sources.list"; Dir::Etc::preferencesparts "preferences.d";\n'
        f'Dir::Etc::trusted "-"; Dir::Etc::trustedparts "parts"; Dir::State "{base}";\n'
        f'Dir::State::Lists "lists"; Dir::State::status "{base}/status";\n'
        f'Dir::State::extended_states "extended_states"; Dir::Cache "{base}";\n'
        f'Dir::Cache::archives "archives"; Dir::Log "{base}"; APT::Sandbox::User "root";\n'
        f'APT::Architecture "{arch}"; APT::Architectures {{ "{arch}"; }};\n'
        'APT::Install-Recommends "false"; APT::Install-Suggests "false";\n'
        'APT::AutoRemove::RecommendsImportant "false";\n'
        'APT::AutoRemove::SuggestsImportant "false";\n'
        'Acquire::Languages "none"; Acquire::Retries "3"; Dir::Bin::dpkg "/bin/true";\n'
        'Acquire::GzipIndexes "false"; Debug::NoLocking "true";\n'
    )
    proxy = file.spec.os.proxy
    env = {"APT_CONFIG": str(config)}
    env |= dict.fromkeys(("http_proxy", "https_proxy"), proxy) if proxy else {}
    return _Archive(base, env, base / "log", file, mirrors)


def _lists(archive: _Archive) -> Iterator[bytes]:
    for path in sorted(archive.lists.glob("*_Packages")):
        if path.stat().st_size <= MAX_LIST_BYTES:
            yield from stanzas(path.read_bytes())


def _installed(
    lock: Lock, archive: _Archive, mirrors: Mirrors, workspace: Workspace
) -> tuple[dict[str, Row], list[str]]:
    """Write the status file of the lock's system; its packages, and names of those that are gone.

    A package that the lists have no more may still be in the pool, and then tells its dependencies
    itself.
    """
    digests = {p.sha256.encode(): p for p in lock.packages}
    texts: dict[str, bytes] = {}
    for stanza in _lists(archive):
        match = re.search(rb"(?m)^SHA256: ([0-9a-f]{64})$", stanza)
        if match and match[1] in digests:
            texts.setdefault(digests[match[1]].name, stanza)
    missing = [p for p in lock.packages if p.name not in texts]
    if missing:
        texts |= _from_pool(lock, missing, archive, mirrors, workspace)
    status = [_status(texts[p.name]) for p in lock.packages if p.name in texts]
    (archive.directory / "status").write_bytes(b"\n".join(status))
    rows = {p.name: (p.name, p.version, p.architecture) for p in lock.packages}
    gone = sorted(name for name in rows if name not in texts)
    return {name: row for name, row in rows.items() if name in texts}, gone


def _from_pool(
    lock: Lock,
    missing: Sequence[LockedPackage],
    archive: _Archive,
    mirrors: Mirrors,
    workspace: Workspace,
) -> dict[str, bytes]:
    debs = workspace.temporary("debs")
    try:
        env = {k: v for k, v in archive.env.items() if k.endswith("_proxy")}
        wanted = lock.model_copy(update={"packages": list(missing)})
        collect(wanted, debs, mirrors, None, env, Store().pool)
    except DownloadError:
        workspace.events.emit("note", text="the mirrors no longer have some of the lock's packages")
    found = {}
    for package in missing:
        path = debs / package.filename
        if path.is_file():
            found[package.name] = run(["dpkg-deb", "-f", str(path)], timeout=60).stdout
    return found


def _status(stanza: bytes) -> bytes:
    """A paragraph of a Packages file as one of the status file."""
    lines = [x for x in stanza.decode("utf-8", "replace").splitlines() if x.strip()]
    kept = [x for x in lines if not x.startswith(_NOT_IN_STATUS)]
    return "\n".join([kept[0], "Status: install ok installed", *kept[1:], ""]).encode()


def _solved(
    archive: _Archive, lock: Lock, old: dict[str, Row], names: set[str], wanted: set[str]
) -> set[Row]:
    """apt's answer to installing ``names`` on the lock's system."""
    variant = archive.file.spec.debootstrap.variant
    roots = {"apt", *wanted, *(p.name for p in lock.packages if p.priority in PRIORITIES[variant])}
    automatic = [row for name, row in old.items() if name not in roots]
    (archive.directory / "extended_states").write_text(
        "\n".join(
            f"Package: {name}\nArchitecture: {_native(archive, arch)}\nAuto-Installed: 1\n"
            for name, _version, arch in automatic
        )
    )
    install = ["install", "--simulate", *sorted({*names, *(wanted - set(old))})]
    # Once without removals: nothing of the lock may have to give way.
    archive.apt(*install, "--no-remove", words=True)
    return _result(archive.apt(*install, "--auto-remove", words=True), old)


def _native(archive: _Archive, arch: str) -> str:
    return archive.file.spec.os.arch if arch == "all" else arch


def _anew(archive: _Archive, wanted: set[str]) -> set[Row]:
    """apt's answer to installing everything on nothing."""
    wishes = {b"Priority: " + x.encode() for x in PRIORITIES[archive.file.spec.debootstrap.variant]}
    wishes.add(b"Essential: yes")
    names = {"apt", *wanted}
    for stanza in _lists(archive):
        if any(wish in stanza.splitlines() for wish in wishes if wish in stanza):
            names.add(fields(stanza).get("Package", "apt"))
    return _result(archive.apt("install", "--simulate", *sorted(names), words=True), {})


def _result(text: str, old: Mapping[str, Row]) -> set[Row]:
    rows = {name: row for name, row in old.items()}
    for name in _REMV.findall(text):
        rows.pop(name, None)
    for name, version, arch in _INST.findall(text):
        rows[name] = (name, version, arch)
    return set(rows.values())


def _changed(lock: Lock, rows: set[Row]) -> list[dict[str, str]]:
    kept = {(p.name, p.version, p.architecture) for p in lock.packages}
    return [
        {"name": name, "version": version, "architecture": arch}
        for name, version, arch in sorted(rows - kept)
    ]


def _joined(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Release files of both, those that vouched for what stayed and for what came."""
    known = {r["sha256"] for r in old}
    return [*old, *(r for r in new if r["sha256"] not in known)]


def _kernel(old: str, names: Sequence[str]) -> str:
    """The release of the kernel in a package linux-image-RELEASE; ``old`` if that stays."""
    releases = [n.removeprefix("linux-image-") for n in names if re.match(r"linux-image-\d", n)]
    return old if old in releases or not releases else releases[-1]
