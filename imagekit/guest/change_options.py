"""How users of ``imagekit inject`` write changes; all is checked before an image is opened."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from imagekit.errors import SpecError
from imagekit.guest.changes import Copy, Hostname, Mkdir, Remove, RunScript, SshKey, Write
from imagekit.guest.sshkeys import parse_keys
from imagekit.host.strangers import open_path
from imagekit.spec.faults import faults
from imagekit.spec.values import GuestPath, Owner, UserName

MAX_WRITE = 1 << 20

_COPY = re.compile(
    r"(?P<source>.+?):(?P<target>/[^:]*)(?::(?P<mode>0?[0-7]{3,4})(?::(?P<owner>[^:]+(:[^:]+)?))?)?",
    re.DOTALL,
)
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_GUEST_PATH: TypeAdapter[str] = TypeAdapter(GuestPath)
_USER: TypeAdapter[str] = TypeAdapter(UserName)
_OWNER: TypeAdapter[str] = TypeAdapter(Owner)


def guest_path(value: str, option: str) -> str:
    """``value`` if it is an absolute path that stays in the guest; raises SpecError."""
    try:
        return _GUEST_PATH.validate_python(value)
    except ValidationError as error:
        raise SpecError(_message(error), where=option) from None


def parse_copy(text: str) -> Copy:
    """``SRC:DST[:MODE[:OWNER]]``; DST ending in / takes the name of SRC. Raises SpecError."""
    option = f"--copy {text}"
    match = _COPY.fullmatch(text)
    if match is None:
        raise SpecError(
            "is not SRC:DST[:MODE[:OWNER]]",
            where=option,
            hint="for example --copy ./motd:/etc/motd:0644:root; DST is absolute and has no colon",
        )
    source = Path(match["source"])
    target = guest_path(match["target"], option)
    status = _source(source, option)
    if stat.S_ISDIR(status) and match["mode"]:
        raise SpecError("a mode applies to one file, and this is a directory", where=option)
    if target.endswith("/") and not stat.S_ISDIR(status):
        target += source.name
    mode = int(match["mode"], 8) if match["mode"] else None
    return Copy(source, target, mode, _owner(match["owner"] or "root", option))


def parse_write(text: str) -> Write:
    """``DST:TEXT``, ``DST:@FILE`` or ``DST:@@TEXT`` (text that starts with @). Raises SpecError.

    TEXT gets a newline at its end unless it is empty or has one; FILE is taken as it is.
    """
    target, colon, value = text.partition(":")
    option = f"--write {target}"
    if not colon or not target.startswith("/"):
        raise SpecError(
            "is not DST:TEXT or DST:@FILE",
            where=option,
            hint="for example --write /etc/motd:Welcome, or --write /etc/motd:@./motd",
        )
    guest_path(target, option)
    if target.endswith("/"):
        raise SpecError("names a directory; name the file", where=option)
    if value.startswith("@") and not value.startswith("@@"):
        return Write(target, _read(Path(value[1:]), option))
    value = value[1:] if value.startswith("@@") else value
    newline = "" if not value or value.endswith("\n") else "\n"
    return Write(target, (value + newline).encode("utf-8", "surrogateescape"))


def parse_mkdir(text: str) -> Mkdir:
    """``DIR[:MODE[:OWNER]]``. Raises SpecError."""
    target, *rest = text.split(":", 2)
    option = f"--mkdir {text}"
    if rest and not re.fullmatch(r"0?[0-7]{3,4}", rest[0]):
        raise SpecError(f"{rest[0]!r} is not an octal mode such as 0755", where=option)
    return Mkdir(
        guest_path(target, option),
        int(rest[0], 8) if rest else 0o755,
        _owner(rest[1], option) if len(rest) > 1 else "root",
    )


def parse_remove(text: str) -> Remove:
    """An absolute path other than the root. Raises SpecError."""
    target = guest_path(text, f"--delete {text}")
    if not target.strip("/."):
        raise SpecError("the root of the guest is not removed", where=f"--delete {text}")
    return Remove(target)


def parse_hostname(text: str) -> Hostname:
    """A host name with or without its domain (RFC 1123), at most 64 bytes. Raises SpecError."""
    if not _HOSTNAME.fullmatch(text) or len(text) > 64:
        raise SpecError(
            f"{text!r} is not a host name",
            where="--hostname",
            hint="letters, digits and hyphens, at most 63 in each part between dots, 64 in all",
        )
    return Hostname(text)


def parse_ssh_key(text: str) -> SshKey:
    """``[USER:]FILE``; without USER for root. FILE holds public keys. Raises SpecError."""
    option = f"--ssh-key {text}"
    user, colon, name = text.partition(":")
    if not colon or "/" in user:
        user, name = "root", text
    try:
        _USER.validate_python(user)
    except ValidationError as error:
        raise SpecError(_message(error), where=option) from None
    data = _read(Path(name).expanduser(), option)
    try:
        return SshKey(user, parse_keys(data.decode("utf-8", "replace")))
    except ValueError as error:
        raise SpecError(str(error), where=name, hint="name the .pub file") from None


def parse_script(text: str) -> RunScript:
    """A file of the host, run as it is (its #! line decides the interpreter). Raises SpecError."""
    path = Path(text)
    content = _read(path, f"--script {text}")
    if not content.strip():
        raise SpecError("is empty", where=f"--script {text}")
    return RunScript(path.name, content)


def _owner(text: str, option: str) -> str:
    try:
        return _OWNER.validate_python(text)
    except ValidationError as error:
        raise SpecError(_message(error), where=option) from None


def _source(path: Path, option: str) -> int:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}", where=option) from None
    except ValueError:
        raise SpecError("a path cannot hold a NUL byte", where=option) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SpecError(f"{path} is neither a file nor a directory", where=option)
    return mode


def _read(path: Path, option: str) -> bytes:
    if not stat.S_ISREG(_source(path, option)):
        raise SpecError(f"{path} is not a file", where=option)
    try:
        with os.fdopen(open_path(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            data = stream.read(MAX_WRITE + 1)
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}", where=option) from None
    if len(data) > MAX_WRITE:
        raise SpecError(
            f"{path} is larger than 1 MiB", where=option, hint="use --copy for large files"
        )
    return data


def _message(error: ValidationError) -> str:
    return faults(error, str)[0].what
