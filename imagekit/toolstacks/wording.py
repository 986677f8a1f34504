"""From a build's facts and a user's wish to a domain in a toolstack's words, or where it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from imagekit.domain import bootpath
from imagekit.domain.bootpath import BootName, domain_for
from imagekit.domain.facts import BuildFacts
from imagekit.domain.model import MODES, DiskFormat, Domain, FirmwareKind, Mode
from imagekit.errors import SpecError
from imagekit.spec.nearest import did_you_mean
from imagekit.toolstacks import explain
from imagekit.toolstacks.declaration import Define, Delivered, Delivery, Import, Toolstack
from imagekit.toolstacks.options import Choice, chosen
from imagekit.toolstacks.output import Emitter, OutputFile
from imagekit.toolstacks.registry import emitter_for, toolstack, toolstacks
from imagekit.toolstacks.secretfile import first_line

BOOTS: tuple[BootName, ...] = get_args(BootName)
FORMATS: tuple[DiskFormat, ...] = get_args(DiskFormat)
FIRMWARE: tuple[FirmwareKind, ...] = get_args(FirmwareKind)
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class Wish:
    """Which domain a user asks for, in the words of the command line, not yet checked.

    None takes the default: the spec's first mode, the raw disk, the firmware the image has.
    """

    toolstack: str = "xl"
    mode: str | None = None
    boot: str = "auto"
    image_format: str | None = None
    firmware: str | None = None
    choices: tuple[Choice, ...] = ()
    vnc_password_file: Path | None = None


@dataclass(frozen=True)
class Worded:
    """A domain, and the toolstack that has words for it, with its choices made."""

    toolstack: Toolstack[Any]
    options: Any
    domain: Domain
    facts: BuildFacts

    @property
    def emitter(self) -> Emitter:
        """The toolstack's emitter, set as the choices say."""
        return self.toolstack.emitter(self.options)

    def text(self) -> str:
        """The main config."""
        return self.emitter.text(self.domain, self.facts)

    def files(self) -> dict[str, OutputFile]:
        """All files, by name relative to the output directory."""
        return self.emitter.files(self.domain, self.facts)

    def explained(self) -> str:
        """The main config with the reason of each line beside it."""
        lines = self.emitter.lines(self.domain, self.facts)
        return explain.table(explain.rows(lines, self.domain, self.facts))

    def notes(self) -> list[str]:
        """What a user should know of the domain, one sentence each; nothing is wrong with it."""
        found = bootpath.notes(self.domain)
        other_macs = self.toolstack.other_macs(self.options)
        if other_macs and self.domain.nics:
            found.insert(
                0,
                f"{other_macs}; systems that imagekit installed know their VIFs by "
                "their order then, others may have no network",
            )
        return found


def config_text(facts: BuildFacts, name: str, mode: Mode) -> str:
    """The main config of the build of ``facts`` for the toolstack ``name`` in ``mode``.

    Raises SpecError or CapabilityError where the toolstack has no words for it.
    """
    return emitter_for(name).text(domain_for(facts, mode=mode, toolstack=name), facts)


def worded(facts: BuildFacts, wish: Wish) -> Worded:
    """The domain that ``wish`` asks for, of the build of ``facts``, whose paths are absolute.

    Raises SpecError for a word that is not known or a password that is missing, CapabilityError
    for what the image cannot do.
    """
    found = toolstack(wish.toolstack)
    options = chosen(found, wish.choices)
    if wish.vnc_password_file is not None:
        facts = _with_password(facts, wish.vnc_password_file)
    domain = domain_for(
        facts,
        mode=_one_of(wish.mode or next(iter(facts.modes), "pv"), MODES, "--mode"),
        boot=_one_of(wish.boot, BOOTS, "--boot"),
        image_format=_optional(wish.image_format, FORMATS, "--format"),
        firmware=_optional(wish.firmware, FIRMWARE, "--firmware"),
        toolstack=wish.toolstack,
    )
    return Worded(found, options, domain, facts)


def deliver(guest: Worded, delivery: Delivery) -> Delivered:
    """Define, import or upload ``guest``; SpecError for a toolstack that cannot, and its own."""
    able, options = guest.toolstack, guest.options
    if isinstance(delivery, Define):
        if able.define is None:
            _cannot(able, "defines no domains", "--define")
        return able.define(guest.domain, guest.facts, options, delivery)
    if isinstance(delivery, Import):
        if able.import_ is None:
            _cannot(able, "imports nothing", "--import")
        return able.import_(guest.domain, guest.facts, options, delivery)
    if able.upload is None:
        _cannot(able, "uploads nothing", "--upload")
    return able.upload(guest.domain, guest.facts, options, delivery)


def able_to(flag: str) -> list[str]:
    """The names of the toolstacks that the option ``flag`` is for, as in ``--define``."""
    return [found.name for found in toolstacks() if flag in found.deliveries]


def _cannot(found: Toolstack[Any], what: str, flag: str) -> NoReturn:
    hint = f"--toolstack {' or '.join(able_to(flag))}"
    raise SpecError(f"{found.name} {what}", where=flag, hint=hint)


def _with_password(facts: BuildFacts, path: Path) -> BuildFacts:
    if facts.graphics is None:
        raise SpecError("the build's spec asks for no screen", where="--vnc-password-file")
    return replace(facts, graphics=replace(facts.graphics, password=first_line(path)))


def _one_of(value: str, allowed: Iterable[Word], option: str) -> Word:
    known = {str(word): word for word in allowed}
    if value not in known:
        meant = did_you_mean(value, known)
        raise SpecError(
            f"{value!r} is not known{meant}", where=option, hint=f"one of {', '.join(known)}"
        )
    return known[value]


def _optional(value: str | None, allowed: Iterable[Word], option: str) -> Word | None:
    return None if value is None else _one_of(value, allowed, option)
