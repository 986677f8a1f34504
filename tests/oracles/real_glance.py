"""The real Glance of PyPI on loopback: SQLite, one directory for images, Keystone if wanted.

``IMAGEKIT_TEST_GLANCE`` names a venv that has them; else one is made, which takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from oracles.real_keystone import RealKeystone
from oracles.wsgi_child import WsgiChild

_BESIDE = ("keystone==30.0.0", "python-openstackclient==10.5.0", "setuptools<81")
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
keystone = versionnegotiation {filters} rootapp
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
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
"""
_SETUP = """\
import sys
sys.argv = ["glance-api"]
from glance.wsgi.api import application as glance
def application(environ, start):
    # What keystonemiddleware finds out from the token, which drops these where it is asked.
    environ.update(HTTP_X_IDENTITY_STATUS="Confirmed", HTTP_X_ROLES="member,reader")
    environ.update(HTTP_X_PROJECT_ID="p", HTTP_X_TENANT_ID="p", HTTP_X_USER_ID="u")
    return glance(environ, start)
"""


def venv(directory: Path) -> Path:
    """The Python of a venv with Glance, Keystone and the openstack command in it."""
    named = os.environ.get("IMAGEKIT_TEST_GLANCE")
    if named:
        return Path(named) / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    words = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "glance==33.0.0"]
    done = subprocess.run(
        [directory / "bin/python", *words, *_BESIDE],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        pytest.skip(f"missing: Glance from PyPI, pip cannot install it: {done.stderr[-300:]}")
    return directory / "bin/python"


@dataclass
class RealGlance:
    """A Glance whose files are under ``root``, started and killed as often as a test wants.

    With ``keystone`` it believes whom that Keystone knows, else everybody.
    """

    python: Path
    root: Path
    keystone: RealKeystone | None = None

    def __post_init__(self) -> None:
        variables = {"OS_GLANCE_CONFIG_DIR": str(self.root)}
        self._served = WsgiChild(self.python, self.root, _SETUP, "/versions", variables)

    @property
    def url(self) -> str:
        return self._served.url

    def prepare(self) -> None:
        for name in ("store", "staging", "tasks", "lock"):
            (self.root / name).mkdir()
        filters = "authtoken context" if self.keystone else "context"
        (self.root / "glance-api-paste.ini").write_text(_PASTE.format(filters=filters))
        self.configure("")
        config = self.root / "glance-api.conf"
        self._served.manage("glance-manage", "--config-file", config, "db_sync")

    def configure(self, more: str) -> None:
        """Write glance-api.conf with ``more`` in its DEFAULT section."""
        text = _CONFIG.format(root=self.root, more=more)
        if self.keystone is not None:
            auth = {"auth_type": "password", "interface": "public", **self.keystone.auth()}
            text += "[keystone_authtoken]\n"
            text += "".join(f"{key} = {value}\n" for key, value in auth.items())
        (self.root / "glance-api.conf").write_text(text)

    def start(self) -> None:
        self._served.start()

    def kill(self) -> None:
        self._served.kill()

    def images(self) -> list[dict[str, Any]]:
        with self._open("/v2/images") as answer:
            found: list[dict[str, Any]] = json.load(answer)["images"]
        return found

    def delete(self, identity: str) -> None:
        self._open(f"/v2/images/{identity}", method="DELETE").close()

    def _open(self, path: str, method: str = "GET") -> Any:
        headers = {"X-Auth-Token": self.keystone.token()} if self.keystone else {}
        request = urllib.request.Request(f"{self.url}{path}", method=method, headers=headers)
        return urllib.request.urlopen(request, timeout=30)


@contextmanager
def running(python: Path, root: Path, keystone: RealKeystone | None = None) -> Iterator[RealGlance]:
    """A Glance that serves on loopback, with an empty database."""
    glance = RealGlance(python, root, keystone)
    glance.prepare()
    try:
        glance.start()
        yield glance
    finally:
        glance.kill()
