"""What a check reports, and what its parts look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from imagekit.guest.backends.appliance import ApplianceFiles
from imagekit.guest.inspection import Inspection
from imagekit.guest.mounts import GuestRoot

Severity = Literal["error", "warning", "info"]
ORDER: dict[str, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Finding:
    """One thing about an image.

    ``mode`` is pv, pvh, hvm or all; ``consequence`` what happens under Xen; ``fix`` what to do;
    ``fixable`` whether ``imagekit check --fix`` does it.
    """

    code: str
    severity: Severity
    mode: str
    what: str
    consequence: str
    fix: str
    fixable: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON object with the fields by their names."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """A surveyed image with its guest mounted.

    ``asked`` are the modes the image must boot in, empty when the user named none; ``golden`` says
    that instances will be cloned from it.
    """

    inspection: Inspection
    files: ApplianceFiles
    root: GuestRoot
    asked: tuple[str, ...] = ()
    golden: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes to look at: those asked for, or all."""
        return self.asked or ("pv", "pvh", "hvm")


Check = Callable[[Subject], Iterator[Finding]]
Fix = Callable[[Subject], None]
