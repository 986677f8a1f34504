"""SSH host keys at the first boot: Debian's sshd does not make them, RHEL's does."""

from __future__ import annotations

from imagekit.guest.files import GuestFiles
from imagekit.guest.units import enable_unit, unit_path

NAME = "imagekit-ssh-host-keys.service"
UNIT = """\
[Unit]
Description=Make the SSH host keys that the image was delivered without
Before=ssh.service sshd.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
CPUSchedulingPolicy=idle
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""
_OWN_MAKERS = (
    "/usr/lib/systemd/system/sshd-keygen@.service",
    "/usr/lib/systemd/system/sshd-keygen.service",
    "/usr/lib/systemd/system/sshdgenkeys.service",
)
_NEEDED = ("/usr/sbin/sshd", "/usr/bin/ssh-keygen", "/usr/lib/systemd")


def make_at_first_boot(files: GuestFiles) -> bool:
    """Have a guest with sshd and systemd make host keys when it starts without.

    Whether that was needed.
    """
    if any(files.stat(path) is None for path in _NEEDED):
        return False
    if any(files.stat(path) is not None for path in (*_OWN_MAKERS, unit_path(NAME))):
        return False
    enable_unit(files, NAME, UNIT, "multi-user.target")
    return True
