"""The one tree of errors a user can meet.

Every error says what is wrong (``what``), where (``where``: file, line, field, device) and what to
do next (``hint``). They are raised deep and printed once, in ``imagekit.cli``; the exit codes are
part of the interface and documented in ``docs/exit-codes.md``.
"""

from __future__ import annotations

import re

# Everything but tab and line feed that a terminal acts on or that reorders or hides text: C0 and
# C1 controls, and Unicode's marks of direction, joiners and separators.
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def printable(text: str) -> str:
    """``text`` with what a terminal would act on as escapes, such as ``\\x1b``."""
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ImagekitError(Exception):
    """Base of all errors shown to a user; ``exit_code`` is the status the program ends with."""

    exit_code = 1
    kind = "error"

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return printable(f"{text}\n  hint: {self.hint}" if self.hint else text)


class SpecError(ImagekitError):
    """The spec, an option or another input written by the user is wrong."""

    exit_code = 3
    kind = "spec"


class HostError(ImagekitError):
    """This host lacks something: a tool, a privilege, memory, disk space."""

    exit_code = 4
    kind = "host"


class LabError(HostError):
    """The lab in which guests are proven does not work on this host; no image is to blame."""

    kind = "lab"


class ToolError(ImagekitError):
    """An external tool failed; ``output`` holds the end of what it printed."""

    exit_code = 5
    kind = "tool"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        output: str = "",
        returncode: int | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.output = output
        self.returncode = returncode

    def __str__(self) -> str:
        text = super().__str__()
        tail = "\n".join(f"  | {printable(x)}" for x in self.output.splitlines()[-15:])
        return f"{text}\n{tail}" if tail else text


class DownloadError(ImagekitError):
    """A mirror or server could not be reached or did not have what was asked for."""

    exit_code = 6
    kind = "download"


class VerificationError(ImagekitError):
    """A signature or checksum does not match: the input must not be used."""

    exit_code = 7
    kind = "verification"


class CapabilityError(ImagekitError):
    """The image cannot do what was asked of it (a mode its kernel lacks, a boot path)."""

    exit_code = 8
    kind = "capability"


class ImageError(ImagekitError):
    """A disk image, kernel, initrd or file system is damaged, hostile or not what was claimed."""

    exit_code = 9
    kind = "image"


class GuestError(ImagekitError):
    """A change inside a guest image failed; the image is as it was before."""

    exit_code = 10
    kind = "guest"


class ProofError(ImagekitError):
    """A guest did not boot as its config claims."""

    exit_code = 11
    kind = "proof"


class BusyError(ImagekitError):
    """Another imagekit, or a running domU, holds what was asked for."""

    exit_code = 12
    kind = "busy"


class ExistsError(ImagekitError):
    """The target exists and nobody asked for it to be overwritten."""

    exit_code = 13
    kind = "exists"


class InconclusiveError(ImagekitError):
    """A proof says nothing about a guest: this host was too busy to run it, or the lab ended."""

    exit_code = 14
    kind = "inconclusive"


class Interrupted(BaseException):
    """SIGTERM or SIGHUP arrived; a BaseException so that no ``except Exception`` swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
