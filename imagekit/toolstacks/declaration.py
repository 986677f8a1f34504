"""What a toolstack says of itself, once: the command line, builds and the documents read it here.

A toolstack is a folder with an emitter and one :class:`Toolstack`; its line in
:mod:`imagekit.spec.toolstack_names` makes it known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Generic, Literal, TypeVar

from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import Domain
from imagekit.toolstacks.output import Emitter

Choices = TypeVar("Choices")
"""The dataclass of a toolstack's own choices, each field one ``--option KEY=VALUE``."""

Netboots = Literal["arguments", "profile", "convention"]
"""How a bootloader program in dom0 learns which guest it is to fetch a kernel for: by any arguments
(``--mac=``, ``--interface=``), by one argument, which names a profile file beside the config, or by
what the toolstack hands over of its own accord."""

NETBOOT_WORDS: dict[Netboots, str] = {
    "arguments": "yes, by arguments to the bootloader program",
    "profile": "yes, by one argument, `--profile=NAME`, and a file beside the config",
    "convention": "yes, by what the toolstack hands to the program of itself",
}
"""How, for the documents."""


@dataclass(frozen=True)
class NoOptions:
    """The choices of a toolstack that has none."""


@dataclass(frozen=True)
class Define:
    """``--define``: make the domain known at ``uri``, with ``force`` in place of one like it."""

    uri: str
    force: bool = False


@dataclass(frozen=True)
class Import:
    """``--import``: copy the guest into the pool at ``url``.

    The password is the first line of ``password_file``, or in the environment. ``networks`` are
    ``BRIDGE=NETWORK`` as written; ``sr`` names a storage repository, None takes the pool's default.
    """

    url: str
    username: str = "root"
    password_file: Path | None = None
    cafile: Path | None = None
    insecure: bool = False
    sr: str | None = None
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upload:
    """``--upload``: send the images to ``cloud`` of clouds.yaml; None takes OS_CLOUD's."""

    cloud: str | None = None


Delivery = Define | Import | Upload


@dataclass(frozen=True)
class Delivered:
    """What came of a delivery: ``made`` names each thing made, ``said`` is for people alone."""

    made: tuple[str, ...] = ()
    said: str = ""


@dataclass(frozen=True)
class Toolstack(Generic[Choices]):
    """A toolstack: its words for a domain, its choices, and what else it can do.

    ``name`` is what ``--toolstack`` and the spec say; ``gives`` describes the config in a few
    words; ``suffix`` follows NAME.MODE in the name of a build's config, which a build writes only
    if ``built``; ``page`` is where the documents tell about it. ``emitter`` words a domain by the
    ``options``, a dataclass whose fields have defaults. ``netboots`` is None where no bootloader
    program can netboot a PV guest. ``other_macs`` says so where the platform, used by these
    options, gives a guest other MAC addresses than the spec's. ``define``, ``import_`` and
    ``upload`` are None where it cannot; they raise ImagekitErrors.
    """

    name: str
    gives: str
    suffix: str
    page: str
    options: type[Choices]
    emitter: Callable[[Choices], Emitter]
    netboots: Netboots | None = None
    built: bool = True
    other_macs: Callable[[Choices], str] = lambda _options: ""
    define: Callable[[Domain, BuildFacts, Choices, Define], Delivered] | None = None
    import_: Callable[[Domain, BuildFacts, Choices, Import], Delivered] | None = None
    upload: Callable[[Domain, BuildFacts, Choices, Upload], Delivered] | None = None

    @property
    def option_names(self) -> tuple[str, ...]:
        """The keys that ``--option`` takes for it."""
        return tuple(f.name for f in fields(self.options))  # type: ignore[arg-type]

    @property
    def deliveries(self) -> tuple[str, ...]:
        """The options of ``imagekit config`` that do more than word a domain."""
        able = {"--define": self.define, "--import": self.import_, "--upload": self.upload}
        return tuple(flag for flag, act in able.items() if act is not None)
