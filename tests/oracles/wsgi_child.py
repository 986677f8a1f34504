"""A service of OpenStack's from PyPI on loopback, served by wsgiref in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """\
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server
class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
make_server("127.0.0.1", {port}, application, server_class=Server).serve_forever()
"""


@dataclass
class WsgiChild:
    """``setup`` is Python that makes ``application``; ``ready`` is a path that answers early."""

    python: Path
    root: Path
    setup: str
    ready: str
    variables: Mapping[str, str]
    port: int = 0
    child: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port = place.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def manage(self, program: str, *words: str | Path) -> None:
        """Run a program of the venv to its end."""
        path = self.python.with_name(program)
        done = subprocess.run([path, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        (self.root / "serve.py").write_text(self.setup + PROGRAM.format(port=self.port))
        with (self.root / "log").open("ab") as log:
            self.child = subprocess.Popen(
                [self.python, self.root / "serve.py"],
                env={**os.environ, **self.variables},
                stdout=log,
                stderr=log,
            )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.url}{self.ready}", timeout=5).close()
                return
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    return
            except OSError:
                pass
            time.sleep(0.25)
        raise AssertionError((self.root / "log").read_text()[-2000:])

    def kill(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()
            self.child = None
