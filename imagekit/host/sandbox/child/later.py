"""What a sandbox's program has shown at a second place while it runs.

mmdebstrap unpacks /proc, /sys and /dev before anything may be mounted on them, and may not mount
anything itself. It asks by :data:`ASK`, and the process that waits for it does it.
"""

from __future__ import annotations

import os

from imagekit.host import syscalls

ASK = 8
"""The program's descriptor: it writes a line, and reads one when all is shown."""


def show(pid: int, places: list[tuple[str, str]]) -> bool:
    """Show paths of the sandbox of process ``pid`` at other paths of it; whether that worked.

    A child does it, for who has entered another mount namespace does not get back.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            opened = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            syscalls.setns(opened, syscalls.NEWNS)
            for source, target in places:
                syscalls.move_mount(syscalls.open_tree(source, recursive=True), target)
            status = 0
        except OSError as error:
            os.write(2, f"a directory cannot be shown twice: {error}\n".encode())
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0
