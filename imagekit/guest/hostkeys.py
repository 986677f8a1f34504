"""SSH host keys at the first boot: Debian's sshd does not make them, RHEL's does."""

from __future__ import annotations

from imagekit.guest.files import GuestFiles

UNIT_PATH = "/etc/systemd/system/imagekit-ssh-host-keys.service"
WANTED_BY = "/etc/systemd/system/multi-user.target.wants/imagekit-ssh-host-keys.service"
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


def make_at_first_boot(files: GuestFiles) -> bool:
    """Have a guest with systemd make host keys when it starts without; whether that was needed."""
    if files.stat("/usr/bin/ssh-keygen") is None or files.stat("/usr/lib/systemd") is None:
        return False
    if any(files.stat(path) is not None for path in (*_OWN_MAKERS, UNIT_PATH)):
        return False
    files.write_text(UNIT_PATH, UNIT)
    files.link(WANTED_BY, UNIT_PATH)
    return True
