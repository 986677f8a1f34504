"""The real Glance of PyPI on loopback: SQLite, one directory for images, no Keystone.

``IMAGEKIT_TEST_GLANCE`` names a venv that has it; else one is made, which takes minutes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_CONFIG = """\
[DEFAULT]
workers = 0
enabled_backends = file:file
{more}
[database]
connection = sqlite:///{root}/glance.db
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = {root}/store
[os_glance_staging_store]
filesystem_store_datadir = {root}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {root}/tasks
[oslo_concurrency]
lock_path = {root}/lock
[paste_deploy]
config_file = {root}/glance-api-paste.ini
flavor = keystone
"""
_PASTE = """\
[composite:glance-api-keystone]
paste.composite_factory = glance.api:root_app_factory
/: api
[composite:api]
paste.composite_factory = glance.api:pipeline_factory
keystone = versionnegotiation context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
"""
_SERVER = """\
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server
port = int(sys.argv[1])
sys.argv = ["glance-api"]
from glance.wsgi.api import application
class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
def as_member(environ, start):
    # What keystonemiddleware would have found out from the token.
    environ.update(HTTP_X_IDENTITY_STATUS="Confirmed", HTTP_X_ROLES="member,reader")
    environ.update(HTTP_X_PROJECT_ID="p", HTTP_X_TENANT_ID="p", HTTP_X_USER_ID="u")
    return application(environ, start)
make_server("127.0.0.1", port, as_member, server_class=Server).serve_forever()
"""


def venv(directory: Path) -> Path:
    """The Python of a venv with Glance in it."""
    named = os.environ.get("IMAGEKIT_TEST_GLANCE")
    if named:
        return Path(named) / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    words = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "glance==33.0.0"]
    done = subprocess.run(
        [directory / "bin/python", *words, "setuptools<81"], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"missing: Glance from PyPI, pip cannot install it: {done.stderr[-300:]}")
    return directory / "bin/python"


@dataclass
class RealGlance:
    """A Glance whose files are under ``root``, started and killed as often as a test wants."""

    python: Path
    root: Path
    port: int = 0
    child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        for name in ("store", "staging", "tasks", "lock"):
            (self.root / name).mkdir()
        (self.root / "glance-api-paste.ini").write_text(_PASTE)
        (self.root / "serve.py").write_text(_SERVER)
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port = place.getsockname()[1]
        self.configure("")
        manage = self.python.with_name("glance-manage")
        config = self.root / "glance-api.conf"
        subprocess.run(
            [manage, "--config-file", config, "db_sync"], check=True, capture_output=True
        )

    def configure(self, more: str) -> None:
        """Write glance-api.conf with ``more`` in its DEFAULT section."""
        text = _CONFIG.format(root=self.root, more=more)
        (self.root / "glance-api.conf").write_text(text)

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self.child = subprocess.Popen(
                [self.python, self.root / "serve.py", str(self.port)],
                env=os.environ | {"OS_GLANCE_CONFIG_DIR": str(self.root)},
                stdout=log,
                stderr=log,
            )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.url}/versions", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        raise AssertionError((self.root / "log").read_text()[-2000:])

    def kill(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()
            self.child = None

    def images(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/v2/images", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["images"]
        return found

    def delete(self, identity: str) -> None:
        request = urllib.request.Request(f"{self.url}/v2/images/{identity}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()


@contextmanager
def running(python: Path, root: Path) -> Iterator[RealGlance]:
    """A Glance that serves on loopback, with an empty database."""
    glance = RealGlance(python, root)
    glance.prepare()
    try:
        glance.start()
        yield glance
    finally:
        glance.kill()
