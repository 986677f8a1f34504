"""What the kernel lets the user of a test have of his own."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest


def need_a_network_of_ones_own() -> None:
    """Skip the test where this user may make no network namespace."""
    if not _allowed():
        pytest.skip("missing: network namespaces, which this host forbids to this user")


@functools.cache
def _allowed() -> bool:
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    done = subprocess.run(["unshare", *user, "--net", "true"], capture_output=True, check=False)
    return done.returncode == 0
