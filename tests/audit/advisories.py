"""Known weaknesses of locked packages, by pip-audit.

pip-audit's exit status does not tell a finding from a network that is not there, and it counts a
package that its service does not know as a good one: its JSON is read instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NONE, FOUND, UNKNOWN = 0, 1, 2


@dataclass(frozen=True)
class Answer:
    """``status`` is NONE, FOUND or UNKNOWN, ``text`` says which packages and what to do."""

    status: int
    text: str


def ask(locks: Sequence[Path], *, osv_url: str | None = None) -> Answer:
    """Ask OSV for advisories on everything in ``locks``; ``osv_url`` names another server of it."""
    argv = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    argv += ["--progress-spinner=off", "--desc=off", "--vulnerability-service=osv"]
    argv += [f"--osv-url={osv_url}"] if osv_url else []
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        argv += ["--format=json", f"--output={report}"]
        for lock in locks:
            argv += ["--requirement", str(lock)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        text = report.read_text() if report.exists() else ""
    return judge(text, done.returncode, done.stderr)


def judge(report: str, returncode: int, errors: str) -> Answer:
    """What pip-audit's JSON ``report`` means; ``errors`` is its standard error."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = errors.strip().splitlines()[-1:] or [f"pip-audit ended with {returncode}"]
        return Answer(
            UNKNOWN,
            f"could not reach the advisories, so nothing is known: {reason[0]}\n"
            "run it where the network reaches OSV, or name a server with --osv-url",
        )
    found = [
        f"{p['name']} {p['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'none'}"
        for p in packages
        for v in p.get("vulns", ())
    ]
    skipped = [f"{p['name']}: not asked for, {p['skip_reason']}" for p in packages if _skipped(p)]
    if found:
        what = "known weaknesses; raise the bound in pyproject.toml and run make lock"
        return Answer(FOUND, "\n".join([what, *found, *skipped]))
    if skipped or not packages:
        return Answer(UNKNOWN, "\n".join(["not all packages were asked for", *skipped]))
    return Answer(NONE, f"no weaknesses known in {len(packages)} packages")


def _skipped(package: dict[str, Any]) -> bool:
    return "skip_reason" in package
