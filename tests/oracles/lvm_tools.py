"""LVM2's own programs, shown one device and told to keep away from the host's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

CONFIG = """\
devices {{
    dir = "/dev"
    scan = [ "/dev" ]
    filter = [ "a|^{device}$|", "r|.*|" ]
    hints = "none"
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
}}
global {{ locking_dir = "{home}" event_activation = 0 }}
activation {{ monitoring = 0 udev_sync = 0 udev_rules = 0 }}
backup {{ backup = 0 archive = 0 }}
"""


class LvmTools:
    """Runs lvm(8) with a configuration in ``home``, without device-mapper."""

    def __init__(self, home: Path, device: Path) -> None:
        self._home = home
        self.device = str(device)
        home.mkdir()
        (home / "lvm.conf").write_text(CONFIG.format(device=device, home=home))

    def run(self, program: str, *args: str) -> str:
        """What ``program`` prints; what it complains of fails the test."""
        done = subprocess.run(
            ["/sbin/lvm", program, "--driverloaded", "n", *args],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LVM_SYSTEM_DIR": str(self._home), "LVM_SUPPRESS_FD_WARNINGS": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        harmless = ("Activation disabled", "non-root user", "NOT backed up", "not zeroed")
        said = [x for x in done.stderr.splitlines() if not any(h in x for h in harmless)]
        assert said == [], done.stderr
        return done.stdout

    def report(self, program: str, fields: str) -> list[dict[str, Any]]:
        """The rows of a reporting program, with sizes in bytes."""
        text = self.run(
            program, *("--reportformat", "json", "--units", "b", "--nosuffix"), "-o", fields
        )
        (report,) = json.loads(text)["report"]
        (rows,) = report.values()
        return list(rows)

    def headers(self) -> dict[str, str]:
        """The fields of label and headers, as ``pvck --dump headers`` names them."""
        lines = [
            x.split("#")[0] for x in self.run("pvck", "--dump", "headers", self.device).split("\n")
        ]
        assert not [x for x in lines if "CHECK" in x], lines
        pairs = [x.split() for x in lines]
        return {p[0]: p[1] for p in pairs if len(p) == 2}

    def metadata(self) -> str:
        """The text of the metadata, as ``pvck --dump metadata`` finds it."""
        said = self.run("pvck", "--dump", "metadata", self.device)
        assert "CHECK" not in said
        return said.split("---\n")[1].rstrip(" ").removesuffix("\n")
