"""Decides what a boot shows: up, failed, or nothing at all because the host was too busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imagekit.errors import InconclusiveError, ProofError
from imagekit.proof.busy import Allotment
from imagekit.proof.report import Boot, Failure, Outcome, ProofReport

LATE = ("timeout", "circling", "create")
"""Verdicts of guests that said nothing final: they were late, or the emulation lost them."""

SLOWNESS = (
    *("timeout", "silent", "no-console", "firmware-lost", "create-late", "unit-late"),
    *("unit-failed", "disk-full"),
)
"""Causes that a machine without a processor brings about, too. Every other one was stated by the
guest, by xl or by a bootloader."""


def judged(
    failure: Failure | None, verdict: str, allotment: Allotment
) -> tuple[Outcome, Failure | None]:
    """The outcome of a boot that ended with ``verdict``, and its failure in fitting words."""
    if failure is None:
        return Outcome.UP, None
    if verdict not in LATE or failure.cause not in SLOWNESS or not allotment.starved:
        return Outcome.FAILED, failure
    message = (
        f"this host had no processor for the machine in {round(allotment.stolen, 1):.0f} of "
        f"{allotment.passed:.0f} s, so that the boot shows nothing; it ended so: {failure.message}"
    )
    hint = "prove it again when the host is less busy, or with --jobs 1"
    return Outcome.INCONCLUSIVE, replace(failure, message=message, hint=hint)


def require_up(report: ProofReport) -> None:
    """Raise ProofError when guests failed, else InconclusiveError when boots show nothing."""
    failed = [boot for boot in report.boots if boot.outcome is Outcome.FAILED]
    if failed:
        raise ProofError(
            f"{len(failed)} of {len(report.boots)} boots failed; {_first(failed)}",
            where=failed[0].config,
            hint=failed[0].failure.hint if failed[0].failure else None,
        )
    unclear = [boot for boot in report.boots if boot.outcome is Outcome.INCONCLUSIVE]
    if unclear:
        raise InconclusiveError(
            f"{len(unclear)} of {len(report.boots)} boots are inconclusive; {_first(unclear)}",
            where=unclear[0].config,
            hint=unclear[0].failure.hint if unclear[0].failure else None,
        )


def _first(boots: Sequence[Boot]) -> str:
    failure = boots[0].failure
    return f"{boots[0].ident}: {failure.message if failure else 'not up'}"
