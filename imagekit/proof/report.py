"""What a proof found out, as data, as JSON and as a table."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagekit.errors import SpecError
from imagekit.proof.findings import Finding
from imagekit.proof.versions import LabVersions, sentence
from imagekit.spec.faults import refusal

REPORT = "proof.json"
MAX_REPORT_BYTES = 64 << 20
VERSION = 2
"""2: ``outcome``, ``findings`` and ``ran_on``; 1 had ``machine``, and only ``ok`` of a boot."""


class Outcome(StrEnum):
    """What a boot shows: the guest comes up, it does not, or nothing (a busy host, a lost lab)."""

    UP = "up"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Failure:
    """Why a guest is not up: the likely ``cause`` (a word, or "unknown") and the evidence."""

    cause: str
    message: str
    hint: str | None = None
    evidence: str | None = None
    console: tuple[str, ...] = ()
    bootloader: tuple[str, ...] = ()
    xl: tuple[str, ...] = ()
    libvirt: tuple[str, ...] = ()


@dataclass(frozen=True)
class Boot:
    """One guest that was started, or was not.

    ``seconds`` counts from the start of ``xl create`` (``virsh define``, QEMU) to the login
    prompt. ``disks`` and ``nics`` are what the guest's own drivers connected to; ``dhcp`` maps a
    MAC to the address it was given, None where it asked for none. ``xen`` is the version of Xen it
    was started under, empty for none, by ``toolstack``. ``attempts`` is over 1 where the emulation
    lost the guest's firmware and it was started anew (imagekit.proof.circling). ``stolen_seconds``
    is how long the machine stood still because the host was busy (imagekit.proof.busy).
    ``failure`` says why a guest is not up, also for an inconclusive boot.
    """

    ident: str
    name: str
    mode: str
    boot: str
    format: str
    config: str
    config_sha256: str
    outcome: Outcome
    xen: str = ""
    toolstack: str = "xl"
    seconds: float | None = None
    create_seconds: float | None = None
    guest_type: str | None = None
    evidence: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    dhcp: dict[str, str | None] = field(default_factory=dict)
    restarts: int = 0
    attempts: int = 1
    stolen_seconds: float = 0.0
    console: str | None = None
    command_output: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        """Whether the guest came up."""
        return self.outcome is Outcome.UP

    def strictly(self) -> Boot:
        """This boot, failed if it is up with a grave finding."""
        grave = [finding for finding in self.findings if finding.grave]
        if not self.ok or not grave:
            return self
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in grave))
        failure = Failure(
            "findings",
            f"the guest is up, but its console shows faults: {kinds}",
            "look at the findings below; without --strict they are only reported",
            grave[0].line,
        )
        return replace(self, outcome=Outcome.FAILED, failure=failure)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True)
class ProofReport:
    """A whole proof; ``seconds`` says what each part took, ``ran_on`` what each lab was made of."""

    under: str
    boots: tuple[Boot, ...]
    seconds: dict[str, float]
    ran_on: tuple[LabVersions, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every guest came up."""
        return bool(self.boots) and all(boot.ok for boot in self.boots)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        value = asdict(self)
        value["boots"] = [boot.to_json() for boot in self.boots]
        return {"proof_version": VERSION, "ok": self.ok, **value}

    def moved(self, old: Path, new: Path) -> ProofReport:
        """The report of a build that has moved from the directory ``old`` to ``new``."""

        def there(name: str) -> str:
            path = Path(name)
            return str(new / path.relative_to(old)) if path.is_relative_to(old) else name

        boots = tuple(
            replace(boot, config=there(boot.config), console=boot.console and there(boot.console))
            for boot in self.boots
        )
        return replace(self, boots=boots)

    def write(self, directory: Path) -> Path:
        """Write ``proof.json`` into ``directory``, whole or not at all."""
        part = directory / f".imagekit-{REPORT}.{os.getpid()}.part"
        try:
            part.write_text(json.dumps(self.to_json(), indent=2) + "\n")
            part.replace(directory / REPORT)
        finally:
            part.unlink(missing_ok=True)
        return directory / REPORT


def read_proof(directory: Path) -> ProofReport:
    """The report that :meth:`ProofReport.write` left in ``directory``.

    Raises SpecError when there is none, or one of an earlier version, which said less.
    """
    path = directory / REPORT
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_REPORT_BYTES)
        version = TypeAdapter(_Version).validate_json(data).proof_version
        if version != VERSION:
            raise SpecError(
                f"proof_version is {version}, not {VERSION}",
                where=str(path),
                hint="prove the build again",
            )
        return TypeAdapter(ProofReport).validate_json(data)
    except OSError as error:
        raise SpecError(
            f"there is no report: {error.strerror}", where=str(path), hint="imagekit prove"
        ) from None
    except ValidationError as error:
        refused = refusal(error, ProofReport, str(path), "prove the build again")
        refused.what = f"the report: {refused.what}"
        raise refused from None


@dataclass(frozen=True)
class _Version:
    proof_version: int


def table(report: ProofReport) -> str:
    """The report for a person: a line for each boot, or with several Xens a column for each Xen."""
    rows = _matrix(report.boots) if len({boot.xen for boot in report.boots}) > 1 else _lines(report)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for boot in report.boots:
        if boot.failure is not None:
            lines += ["", *_failure(boot, boot.failure)]
        if boot.findings:
            lines += ["", *_findings(boot)]
    took = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items())
    lines += ["", f"took: {took}"]
    lines += [f"ran on: {sentence(versions)}" for versions in report.ran_on]
    return "\n".join(lines)


def _way(boot: Boot) -> str:
    """The boot path, and who starts the guest if that is not xl."""
    return boot.boot if boot.toolstack == "xl" else f"{boot.boot} {boot.toolstack}"


def _result(boot: Boot) -> str:
    if boot.outcome is Outcome.UP:
        return "up, with findings" if boot.findings else "up"
    if boot.outcome is Outcome.INCONCLUSIVE and boot.failure and boot.failure.cause == "lab-lost":
        return "inconclusive (lab-lost)"
    if boot.outcome is Outcome.INCONCLUSIVE:
        return f"inconclusive ({boot.stolen_seconds:.0f} s stolen)"
    return boot.failure.cause if boot.failure else "not up"


def _findings(boot: Boot) -> list[str]:
    lines = [f"{boot.ident}: findings on its console"]
    return lines + [f"  {finding.kind}: {finding.line}" for finding in boot.findings]


def _matrix(boots: tuple[Boot, ...]) -> list[tuple[str, ...]]:
    """A row for each mode, boot path and format; in each Xen's column the result and seconds."""
    xens = list(dict.fromkeys(boot.xen for boot in boots))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for boot in boots:
        # The config tells two guests apart that are started in the same way.
        row = (boot.name, boot.mode, _way(boot), boot.format, boot.config)
        took = f" {boot.seconds:.0f} s" if boot.seconds is not None else ""
        cells.setdefault(row, {})[boot.xen] = _result(boot) + took
    return [
        ("guest", "mode", "boot", "disk", *(f"Xen {xen}" for xen in xens)),
        *((*row[:4], *(found.get(xen, "-") for xen in xens)) for row, found in cells.items()),
    ]


def _lines(report: ProofReport) -> list[tuple[str, ...]]:
    head = ("guest", "mode", "boot", "disk", "result", "seconds", "inside", "disks", "nics")
    rows: list[tuple[str, ...]] = [head]
    for boot in report.boots:
        leases = [a for a in boot.dhcp.values() if a]
        rows.append(
            (
                *(boot.name, boot.mode, _way(boot), boot.format, _result(boot)),
                f"{boot.seconds:.0f}" if boot.seconds is not None else "-",
                boot.guest_type or "-",
                " ".join(boot.disks) or "-",
                " ".join([*boot.nics, *leases]) or "-",
            )
        )
    return rows


def _failure(boot: Boot, failure: Failure) -> list[str]:
    lines = [f"{boot.ident}: {failure.message}"]
    if failure.hint:
        lines.append(f"  hint: {failure.hint}")
    if failure.evidence:
        lines.append(f"  evidence: {failure.evidence}")
    for title, part in (
        ("xl", failure.xl),
        ("libvirt", failure.libvirt),
        ("bootloader", failure.bootloader),
        ("console", failure.console),
    ):
        if part:
            lines += [f"  {title}:", *(f"  | {line}" for line in part)]
    if boot.console:
        lines.append(f"  the whole console is in {boot.console}")
    return lines
