"""A kernel report as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from imagekit.kernel.capability import modes
from imagekit.kernel.report import KernelReport

_ANSWERS = {True: "yes", False: "no", None: "unknown"}


def as_text(report: KernelReport) -> str:
    """The report as lines without a trailing newline; control characters are escaped."""
    return "\n".join(_safe(line) for line in _lines(report))


def _lines(report: KernelReport) -> Iterator[str]:
    yield f"{report.name}"
    yield f"  {report.container}, {report.arch}, release {report.release or 'unknown'}, " + (
        f"compressed with {report.compression}" if report.compression else "no known compression"
    )
    for mode, verdict in (("pv", report.pv), ("pvh", report.pvh), ("hvm", report.hvm)):
        yield from _answer(mode.upper(), verdict.evidence, answer=verdict.capable)
    yield from _answer("PVHVM drivers", report.pvhvm_evidence, answer=report.pvhvm_drivers)
    yield from _answer(
        "dom0 can unpack it", report.dom0_loader.evidence, answer=report.dom0_loader.can_unpack
    )
    if report.initrd is None:
        return
    initrd = report.initrd
    yield f"initrd {initrd.name}: {initrd.modules} modules, made by {initrd.init_system or '?'}"
    for name, driver in (
        ("xen_blkfront", initrd.xen_blkfront),
        ("xen_netfront", initrd.xen_netfront),
    ):
        yield f"  {name:<18} {driver.state:<8} {driver.evidence}"
    for problem in initrd.problems:
        yield f"  problem: {problem}"
    offered = [mode for mode, verdict in modes(report).items() if verdict.capable]
    yield f"together they boot as: {', '.join(offered) or 'nothing'}"


def _answer(what: str, evidence: Iterable[str], *, answer: bool | None) -> Iterator[str]:
    first, *rest = [*evidence] or [""]
    yield f"  {what:<18} {_ANSWERS[answer]:<8} {first}"
    for line in rest:
        yield f"  {'':<18} {'':<8} {line}"


def _safe(line: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
