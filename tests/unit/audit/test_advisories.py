"""What pip-audit said is told apart: nothing known, something found, nothing asked."""

from __future__ import annotations

import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit.advisories import FOUND, NONE, UNKNOWN, ask, judge

LOCK = f"""six==1.16.0 \\
    --hash=sha256:{"1" * 64}
idna==3.6 \\
    --hash=sha256:{"2" * 64}
"""


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


GOOD = {"name": "six", "version": "1.16.0", "vulns": []}
BAD = {
    "name": "idna",
    "version": "3.6",
    "vulns": [{"id": "PYSEC-2024-60", "fix_versions": ["3.7"], "aliases": [], "description": ""}],
}
SKIPPED = {"name": "uv", "skip_reason": "Dependency not found and could not be audited: uv (1)"}


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (report(GOOD), NONE, ["1 packages"]),
        (report(GOOD, BAD), FOUND, ["idna 3.6", "PYSEC-2024-60", "3.7", "make lock"]),
        (report(BAD, SKIPPED), FOUND, ["idna 3.6", "uv: not asked for"]),
        (report(GOOD, SKIPPED), UNKNOWN, ["not all", "uv"]),
        (report(), UNKNOWN, ["not all"]),
        ("", UNKNOWN, ["could not reach", "no route to host", "--osv-url"]),
        ("{", UNKNOWN, ["could not reach"]),
        ("[]", UNKNOWN, ["could not reach"]),
    ],
)
def test_each_end_of_pip_audit_has_its_status(text: str, status: int, words: list[str]) -> None:
    # pip-audit ends with 1 for findings and for errors alike.
    answer = judge(text, 1, "Traceback\nConnectionError: no route to host\n")
    assert answer.status == status
    assert all(word in answer.text for word in words)


class Osv(http.server.BaseHTTPRequestHandler):
    """Answers POST /v1/query as OSV does, with one advisory for idna."""

    def do_POST(self) -> None:
        """One query: {"package": {"name", "ecosystem"}, "version"}."""
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {}
        if query["package"]["name"] == "idna":
            event = {"introduced": "0"}, {"fixed": "3.7"}
            affected = {
                "package": {"name": "idna", "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": list(event)}],
            }
            answer = {"vulns": [{"id": "PYSEC-2024-60", "details": "x", "affected": [affected]}]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def osv() -> Iterator[str]:
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("missing: pip-audit, which make audit installs")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def test_pip_audit_asks_the_named_server(osv: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK)
    answer = ask([lock], osv_url=osv)
    assert answer.status == FOUND
    assert "idna 3.6: PYSEC-2024-60, fixed in 3.7" in answer.text
    lock.write_text(LOCK.partition("idna")[0])
    assert ask([lock], osv_url=osv).status == NONE


@pytest.mark.usefixtures("osv")
def test_a_server_that_is_not_there_is_no_good_news(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK)
    # Port 9, discard: nobody answers there.
    answer = ask([lock], osv_url="http://127.0.0.1:9/v1/query")
    assert answer.status == UNKNOWN
    assert "could not reach" in answer.text
