"""The real Keystone of PyPI on loopback, with SQLite and one administrator."""

from __future__ import annotations

import getpass
import grp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracles.wsgi_child import WsgiChild

PASSWORD = "a test's"
_CONFIG = """\
[database]
connection = sqlite:///{root}/keystone.db
[fernet_tokens]
key_repository = {root}/fernet
[credential]
key_repository = {root}/credential
[oslo_policy]
policy_dirs = {root}/none
"""
_SETUP = """\
import sys
sys.argv = ["keystone"]
from keystone.wsgi.api import application
"""


@dataclass(frozen=True)
class RealKeystone:
    """A Keystone that serves; ``admin`` may do everything in the project ``admin``."""

    served: WsgiChild

    def auth(self, user: str = "admin", password: str = PASSWORD) -> dict[str, str]:
        """The section ``auth`` of a cloud in clouds.yaml."""
        domains = {"user_domain_name": "Default", "project_domain_name": "Default"}
        who = {"username": user, "password": password, "project_name": "admin"}
        return {"auth_url": f"{self.served.url}/v3", **who, **domains}

    def connection(self) -> Any:
        """openstacksdk's, as the administrator."""
        import openstack

        return openstack.connect(auth=self.auth(), identity_api_version="3", region_name="one")

    def token(self) -> str:
        """A token of the administrator's."""
        with self.connection() as cloud:
            return str(cloud.auth_token)

    def add_user(self, name: str, role: str) -> None:
        """A user with ``role`` in the administrator's project, and PASSWORD."""
        with self.connection() as cloud:
            project = cloud.identity.find_project("admin")
            user = cloud.identity.create_user(name=name, password=PASSWORD)
            found = cloud.identity.find_role(role)
            cloud.identity.assign_project_role_to_user(project, user, found)


@contextmanager
def running(python: Path, root: Path) -> Iterator[RealKeystone]:
    """A Keystone with its data in ``root``, ended with the block."""
    config = root / "keystone.conf"
    config.write_text(_CONFIG.format(root=root))
    served = WsgiChild(python, root, _SETUP, "/v3", {"OS_KEYSTONE_CONFIG_FILES": str(config)})
    owner = ["--keystone-user", getpass.getuser(), "--keystone-group"]
    owner.append(grp.getgrgid(os.getegid()).gr_name)
    for name in ("fernet", "credential"):
        (root / name).mkdir(mode=0o700)
    where = ["--bootstrap-region-id", "one", "--bootstrap-public-url", f"{served.url}/v3"]
    for step in (
        ["db_sync"],
        ["fernet_setup", *owner],
        ["credential_setup", *owner],
        ["bootstrap", "--bootstrap-password", PASSWORD, *where],
    ):
        served.manage("keystone-manage", "--config-file", config, *step)
    try:
        served.start()
        yield RealKeystone(served)
    finally:
        served.kill()
