"""pypxeboot: the bootloader that lets a Xen domU boot over the network, or from its own disk.

A toolstack starts it in dom0 before the guest exists. It asks DHCP for the guest, reads the
PXELINUX config or iPXE script the boot server has for it, and hands fresh copies of kernel and
initrd to the toolstack. When the server says so it boots the guest's disk instead: flip the
server's config after the installation, and the same domain boots what was installed. On any
failure it writes nothing and exits nonzero, so that no domain is created.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from imagekit.errors import HostError, ImagekitError, Interrupted, SpecError, VerificationError
from imagekit.pypxeboot import arguments
from imagekit.pypxeboot.handover import (
    PV_COMMAND_LINE,
    FreshFiles,
    Output,
    Result,
    fresh_files,
    render,
)
from imagekit.pypxeboot.profile import MIB, NOBODY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagekit.pypxeboot.session import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run with ``argv`` (default: the process's) and return the exit status.

    0 when a result was written; otherwise the error's exit code, nothing written, no file left.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _signals(), ExitStack() as stack:
            output = Output(arguments.output_path(words))
            stack.callback(output.close)
            invocation = arguments.parse(words)
            with fresh_files(invocation.output_directory) as files:
                result = boot(invocation, files)
                output.write(render(result, invocation.output_format))
                files.keep()
        return 0
    except ImagekitError as error:
        _say(str(error))
        return error.exit_code
    except Interrupted as interrupted:
        _say(str(interrupted))
        return interrupted.exit_code


def boot(invocation: arguments.Invocation, files: FreshFiles) -> Result:
    """Find out what this guest boots now and bring it here, into ``files``."""
    kernel_fd, kernel = files.create("boot_kernel.")
    initrd_fd, initrd = files.create("boot_ramdisk.")
    try:
        outcome = _netboot(invocation, kernel_fd, initrd_fd)
        if not outcome.local:
            _check_pins(invocation, kernel, initrd if outcome.has_initrd else None)
    finally:
        os.close(kernel_fd)
        os.close(initrd_fd)
    if outcome.local:
        files.drop(kernel)
        files.drop(initrd)
        return _local(invocation, files)
    if not outcome.has_initrd:
        files.drop(initrd)
    if len(outcome.args.encode()) >= PV_COMMAND_LINE:
        _say(f"warning: a PV guest sees only {PV_COMMAND_LINE - 1} bytes of this command line")
    return Result(kernel, initrd if outcome.has_initrd else None, outcome.args)


def _netboot(invocation: arguments.Invocation, kernel_fd: int, initrd_fd: int) -> Outcome:
    # Everything the confined part needs is loaded before it: it may not be able to read the
    # directory that imagekit lies in.
    from imagekit.pypxeboot import (
        confine,
        dhcp_client,
        fetch,
        http_fetch,  # noqa: F401
        session,
    )

    settings = invocation.settings
    with ExitStack() as stack:
        wire = None
        keep = [kernel_fd, initrd_fd]
        if settings.dhcp != "none":
            wire = dhcp_client.PacketWire(settings.interface or only_bridge())
            stack.callback(wire.close)
            keep += wire.filenos()
        network = session.Network(wire, fetch.tls_for(settings.ca_file, settings.http))
        overrides = session.Overrides(invocation.kernel, invocation.ramdisk, invocation.args)
        say = _quiet if invocation.quiet else _say

        def job() -> dict[str, object]:
            opened = session.Files(kernel_fd, initrd_fd)
            return vars(session.run(settings, overrides, network, opened, say))

        if settings.runas and os.geteuid() not in (0, int(settings.runas)):
            raise HostError("--runas needs root")
        limit = max(settings.kernel_limit, settings.initrd_limit) * MIB
        user = _user(invocation)
        limits = confine.Confinement(
            int(NOBODY) if user is None else user, keep, limit, float(settings.timeout)
        )
        answer = confine.run(job, limits)
    return session.Outcome(
        local=answer.get("local") is True,
        why=str(answer.get("why")),
        args=str(answer.get("args") or ""),
        has_initrd=answer.get("has_initrd") is True,
    )


def _local(invocation: arguments.Invocation, files: FreshFiles) -> Result:
    from imagekit.pypxeboot import localboot

    settings = invocation.settings
    return localboot.boot_from_disk(
        invocation.disk,
        files,
        pygrub=Path(settings.pygrub) if settings.pygrub else None,
        kernel=invocation.kernel,
        ramdisk=invocation.ramdisk,
        args=invocation.args,
        uid=_user(invocation),
        max_file_bytes=max(settings.kernel_limit, settings.initrd_limit) * MIB,
    )


def _user(invocation: arguments.Invocation) -> int | None:
    """As whom the network and the disk of this guest are read."""
    from imagekit.pypxeboot.domain_user import domain_user

    settings = invocation.settings
    return domain_user(settings.runas, invocation.output, settings.mac, invocation.disk)


def _check_pins(invocation: arguments.Invocation, kernel: Path, initrd: Path | None) -> None:
    import hashlib

    settings = invocation.settings
    for name, path, pin in (
        ("kernel", kernel, settings.kernel_sha256),
        ("initrd", initrd, settings.initrd_sha256),
    ):
        if not pin:
            continue
        if path is None:
            raise VerificationError(f"the {name} is pinned, and the config names none")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != pin.lower():
            raise VerificationError(
                f"the {name} from the boot server is not the pinned one",
                hint=f"it has the SHA-256 {digest}; change the pin if that is wanted",
            )


def only_bridge(classes: Path = Path("/sys/class/net")) -> str:
    """The name of this host's only bridge; raises SpecError when there is none, or a choice."""
    bridges = sorted(path.parent.name for path in classes.glob("*/bridge"))
    if len(bridges) == 1:
        return bridges[0]
    raise SpecError(
        f"this host has the bridges {', '.join(bridges)}" if bridges else "this host has no bridge",
        hint="say with --interface=, or bridge= after mac=, where the guest will be connected",
    )


def _say(text: str) -> None:
    shown = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
    # Standard error is the guest's console, a pty that may be gone.
    try:
        print(f"pypxeboot: {shown}", file=sys.stderr, flush=True)
    except OSError:
        return


def _quiet(_text: str) -> None:
    return


@contextmanager
def _signals() -> Iterator[None]:
    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
