"""``make audit``: a bill of materials of imagekit, and known weaknesses of what it is locked to.

Exit status: 0 none known, 1 some found, 2 not known, as the data could not be reached.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .advisories import ask
from .bill import write_bill

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Write the bill, then ask for advisories."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build/imagekit.cdx.json")
    parser.add_argument("--osv-url", help="another server that answers OSV's /v1/query")
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    count = write_bill(ROOT, given.output)
    print(f"{given.output}: imagekit and {count} packages (CycloneDX)")
    answer = ask(sorted((ROOT / "requirements").glob("*.txt")), osv_url=given.osv_url)
    print(answer.text, file=sys.stderr if answer.status else sys.stdout)
    return answer.status


if __name__ == "__main__":
    sys.exit(main())
