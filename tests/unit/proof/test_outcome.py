"""Up, failed, or nothing shown: what a busy host makes of a verdict."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from imagekit.errors import InconclusiveError, ProofError
from imagekit.proof.busy import Allotment, HostTime, Stopwatch, host_time
from imagekit.proof.findings import Finding
from imagekit.proof.outcome import judged, require_up
from imagekit.proof.report import Boot, Failure, Outcome, ProofReport, table

QUIET = Allotment(300.0, 12.0)
BUSY = Allotment(400.0, 130.0)


def boot(**changes: Any) -> Boot:
    values: dict[str, Any] = {
        "ident": "web-pv", "name": "web", "mode": "pv", "boot": "pygrub", "format": "raw",
        "config": "/b/web.cfg", "config_sha256": "0" * 64, "outcome": Outcome.UP,
    }  # fmt: skip
    return Boot(**{**values, **changes})


@pytest.mark.parametrize(
    ("verdict", "cause", "allotment", "outcome"),
    [
        ("timeout", "timeout", QUIET, Outcome.FAILED),
        ("timeout", "timeout", BUSY, Outcome.INCONCLUSIVE),
        ("timeout", "silent", BUSY, Outcome.INCONCLUSIVE),
        ("timeout", "unit-late", BUSY, Outcome.INCONCLUSIVE),
        ("circling", "firmware-lost", BUSY, Outcome.INCONCLUSIVE),
        ("circling", "firmware-lost", QUIET, Outcome.FAILED),
        ("create", "create-late", BUSY, Outcome.INCONCLUSIVE),
        ("timeout", "unit-hangs", BUSY, Outcome.FAILED),
        # What a guest or xl states is so on any host.
        ("lost", "no-blkfront", BUSY, Outcome.FAILED),
        ("lost", "kernel-panic", BUSY, Outcome.FAILED),
        ("create", "kernel-without-note", BUSY, Outcome.FAILED),
        ("gone", "guest-ended", BUSY, Outcome.FAILED),
        ("up", "command-failed", BUSY, Outcome.FAILED),
    ],
)
def test_only_lateness_is_excused_and_only_by_a_busy_host(
    verdict: str, cause: str, allotment: Allotment, outcome: Outcome
) -> None:
    given = Failure(cause, "the guest was not up in time")
    found, failure = judged(given, verdict, allotment)
    assert found is outcome
    assert failure is not None
    if outcome is Outcome.INCONCLUSIVE:
        assert failure.cause == cause
        for part in ("130 of 400 s", "not up in time"):
            assert part in failure.message
    else:
        assert failure == given


def test_a_guest_that_is_up_is_up_on_a_busy_host_too() -> None:
    assert judged(None, "up", BUSY) == (Outcome.UP, None)


def test_the_table_and_the_error_name_the_seconds_stolen() -> None:
    outcome, failure = judged(Failure("timeout", "late"), "timeout", BUSY)
    report = ProofReport(
        "xen", (boot(), boot(outcome=outcome, failure=failure, stolen_seconds=130.0)), {}
    )
    assert "inconclusive (130 s stolen)" in table(report)
    with pytest.raises(
        InconclusiveError, match=r"1 of 2 boots are inconclusive.*130 of 400 s"
    ) as e:
        require_up(report)
    assert (e.value.exit_code, e.value.kind) == (14, "inconclusive")
    assert not report.ok


def test_a_real_failure_wins_over_an_inconclusive_boot() -> None:
    failed = boot(outcome=Outcome.FAILED, failure=Failure("no-blkfront", "no driver"))
    unclear = boot(outcome=Outcome.INCONCLUSIVE, failure=Failure("timeout", "late"))
    with pytest.raises(ProofError, match=r"1 of 2 boots failed.*no driver"):
        require_up(ProofReport("xen", (unclear, failed), {}))


def test_findings_are_shown_and_fail_only_strictly() -> None:
    found = boot(findings=(Finding("segfault", "sshd[1]: segfault at 0"),))
    text = table(ProofReport("xen", (found,), {}))
    assert "up, with findings" in text
    assert "segfault: sshd[1]: segfault at 0" in text
    require_up(ProofReport("xen", (found,), {}))
    strict = found.strictly()
    assert strict.failure is not None
    assert (strict.outcome, strict.failure.cause) == (Outcome.FAILED, "findings")
    assert strict.failure.evidence == "sshd[1]: segfault at 0"
    with pytest.raises(ProofError, match="segfault"):
        require_up(ProofReport("xen", (strict,), {}))


def test_a_warning_of_the_kernel_passes_strictly_too() -> None:
    warned = boot(findings=(Finding("kernel-warning", "WARNING: CPU: 0"),))
    assert warned.strictly() is warned
    assert "up, with findings" in table(ProofReport("xen", (warned,), {}))


def test_a_quarter_of_the_time_stolen_is_too_much() -> None:
    assert Allotment(100.0, 25.0).starved
    assert not Allotment(100.0, 24.9).starved
    assert not Allotment(0.0, 0.0).starved
    assert Allotment(100.0, 30.0).had == 70.0


def test_steal_of_a_host_that_is_a_machine_itself_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waits = [0.0], [0.0]
    host = [HostTime(1000, 10)]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch = Stopwatch(lambda: waits[0], lambda: host[0])
    clock[0], waits[0], host[0] = 100.0, 20.0, HostTime(1060, 50)
    # 20 s waited for here; in the other 80 s the host itself had 60 of 100 ticks.
    assert watch.read() == Allotment(100.0, 20 + 80 * 0.4)
    waits[0] = 0.0  # the machine is gone, and with it what the kernel knew
    assert watch.read().stolen == pytest.approx(52.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu  100 1 20 9999 50 3 4 7 1 0\ncpu0 1 1\n", HostTime(128, 7)),
        ("cpu  100 1 20 9999\n", HostTime()),
        ("intr 5\n", HostTime()),
        ("", HostTime()),
    ],
)
def test_the_hosts_ticks_are_read(tmp_path: Path, text: str, expected: HostTime) -> None:
    (tmp_path / "stat").write_text(text)
    assert host_time(tmp_path / "stat") == expected
    assert host_time(tmp_path / "absent") == HostTime()


def test_this_hosts_own_ticks_can_be_read() -> None:
    assert host_time().worked > 0
