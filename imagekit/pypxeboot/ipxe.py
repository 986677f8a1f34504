"""A subset of the iPXE script language, enough to name a kernel. Nothing in it is executed.

Understood: ``#!ipxe``, comments, ``set``, ``clear``, ``${settings}``, ``kernel``, ``initrd``,
``imgargs``, ``boot``, ``chain``, ``exit``, ``sanboot``/``sanhook`` of a local drive; ``dhcp``,
``echo``, ``ifopen``, ``ifconf`` and ``sync`` do nothing here. Everything else (menus, ``goto``,
``||``) is an error that names the line, for guessing at a script's branches could boot the wrong
thing. Source: iPXE documentation, "Command reference" and "Settings reference".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from imagekit.errors import SpecError
from imagekit.pypxeboot.entry import BootEntry, LocalBoot

MAX_SCRIPT = 256 * 1024
MAX_CHAIN = 8
MAX_EXPANDED = 8192
MAX_SETTINGS = 256
MAX_IMAGES = 16

NO_EFFECT = frozenset(
    ("dhcp", "echo", "ifopen", "ifclose", "ifconf", "ifstat", "sync", "imgstat", "route")
)
SETTING = re.compile(
    r"\$\{([A-Za-z0-9./_-]{1,64})(?::(hexhyp|hexraw|hex|string|ipv4|uristring))?\}"
)


@dataclass(frozen=True)
class Chain:
    """The script continues in another one; ``settings`` carry over."""

    uri: str
    settings: Mapping[str, str]


@dataclass
class _State:
    settings: dict[str, str]
    kernel: str = ""
    args: str = ""
    initrds: list[str] = field(default_factory=list)


def is_script(text: str) -> bool:
    """Whether ``text`` is an iPXE script."""
    return re.match(r"#!(ipxe|gpxe)[ \t]*(\r?\n|$)", text) is not None


def machine_settings(
    *,
    mac: bytes,
    address: str = "",
    netmask: str = "",
    router: str = "",
    server: str = "",
    uuid: str = "",
    hostname: str = "",
    filename: str = "",
) -> dict[str, str]:
    """The settings a script can ask for; empty ones are left out."""
    plain = {
        "mac": mac.hex(":"),
        "ip": address,
        "netmask": netmask,
        "gateway": router,
        "next-server": server,
        "uuid": uuid,
        "hostname": hostname,
        "filename": filename,
    }
    settings = {name: value for name, value in plain.items() if value}
    for name in list(settings):
        settings[f"net0/{name}"] = settings[f"netX/{name}"] = settings[name]
    return settings | {"buildarch": "x86_64", "platform": "pcbios", "net0/ifname": "net0"}


def read(text: str, settings: Mapping[str, str], *, where: str) -> BootEntry | LocalBoot | Chain:
    """What the script ``text`` boots or chains to; raises SpecError with file and line."""
    if len(text) > MAX_SCRIPT:
        raise SpecError(f"larger than {MAX_SCRIPT} bytes", where=where)
    if not is_script(text):
        raise SpecError("this is no iPXE script: the first line is not #!ipxe", where=where)
    state = _State(dict(settings))
    number, pending = 0, ""
    for number, raw in enumerate(re.split("\r\n|\n|\r", text), 1):
        line = pending + raw
        if len(line) > MAX_EXPANDED:
            raise SpecError(
                f"a line of more than {MAX_EXPANDED} characters", where=f"{where}:{number}"
            )
        if line.endswith("\\"):
            pending = line[:-1]
            continue
        pending = ""
        result = _command(line.strip(), state, f"{where}:{number}")
        if result is not None:
            return result
    if state.kernel:
        raise SpecError("the script loads a kernel and never boots it", where=f"{where}:{number}")
    return LocalBoot("the iPXE script ended without booting anything")


def run(
    text: str, settings: Mapping[str, str], load: Callable[[str], str], *, where: str
) -> BootEntry | LocalBoot:
    """Like :func:`read`, following chains; ``load`` fetches a chained script by its name."""
    for _ in range(MAX_CHAIN):
        result = read(text, settings, where=where)
        if not isinstance(result, Chain):
            return result
        settings, where = result.settings, result.uri
        text = load(result.uri)
    raise SpecError(f"more than {MAX_CHAIN} scripts chained", where=where)


def _command(line: str, state: _State, place: str) -> BootEntry | LocalBoot | Chain | None:
    if not line or line.startswith("#") or line.startswith(":"):
        return None
    words = expand(line, state.settings, place).split()
    if not words:
        return None
    name, arguments = words[0].lower(), words[1:]
    if any(word in ("||", "&&") for word in words):
        raise SpecError("conditions (|| and &&) are not followed here", where=place, hint=_HINT)
    if name in NO_EFFECT:
        return None
    if name in ("set", "clear"):
        _set(name, arguments, state, place)
    elif name in ("kernel", "imgselect"):
        plain = _without_options(arguments, place)
        state.kernel, state.args = _first(plain, name, place), " ".join(plain[1:])
    elif name in ("initrd", "module", "imgfetch"):
        state.initrds.append(_first(_without_options(arguments, place), name, place))
        if len(state.initrds) > MAX_IMAGES:
            raise SpecError(f"more than {MAX_IMAGES} initrds", where=place)
    elif name == "imgargs":
        state.args = " ".join(arguments[1:])
    elif name == "imgfree":
        state.kernel, state.args, state.initrds = "", "", []
    else:
        return _ending(name, arguments, state, place)
    return None


def _ending(
    name: str, arguments: list[str], state: _State, place: str
) -> BootEntry | LocalBoot | Chain:
    plain = _without_options(arguments, place)
    if name == "boot" and not plain:
        if not state.kernel:
            raise SpecError("boot without a kernel", where=place)
        return BootEntry(place, state.kernel, tuple(state.initrds), state.args)
    if name == "boot":
        return BootEntry(place, plain[0], tuple(state.initrds), " ".join(plain[1:]) or state.args)
    if name == "chain":
        return Chain(_first(plain, name, place), dict(state.settings))
    if name == "exit":
        return LocalBoot(f"{place} says exit")
    if name in ("sanboot", "sanhook") and not plain:
        return LocalBoot(f"{place} says {name}")
    raise SpecError(f"the iPXE command {name[:40]!r} is not understood", where=place, hint=_HINT)


_HINT = "pypxeboot reads set, kernel, initrd, imgargs, boot, chain, exit and sanboot of a drive"
_VALUE_OPTIONS = ("--name", "-n", "--timeout", "-t", "--drive", "-d", "--filename", "-f")


def _without_options(words: list[str], place: str) -> list[str]:
    """Drop a command's own options, which stand before its first argument."""
    position = 0
    while position < len(words) and words[position].startswith("-"):
        if not re.fullmatch(r"--?[a-z][a-z-]*(=\S*)?", words[position]):
            raise SpecError(f"the option {words[position][:40]!r} is not understood", where=place)
        following = words[position + 1 : position + 2]
        takes_value = words[position] in _VALUE_OPTIONS and following != []
        if takes_value and following[0].startswith("-"):
            takes_value = False  # sanboot's -n stands alone, kernel's -n names the image
        position += 2 if takes_value else 1
    return words[position:]


def _first(words: list[str], command: str, place: str) -> str:
    if not words:
        raise SpecError(f"{command} without a file", where=place)
    return words[0]


def _set(command: str, arguments: list[str], state: _State, place: str) -> None:
    name = re.sub(":[a-z0-9]+$", "", _first(arguments, command, place))
    if command == "clear" or len(arguments) == 1:
        state.settings.pop(name, None)
        return
    if len(state.settings) >= MAX_SETTINGS:
        raise SpecError(f"more than {MAX_SETTINGS} settings", where=place)
    state.settings[name] = " ".join(arguments[1:])


def expand(line: str, settings: Mapping[str, str], place: str) -> str:
    """Replace ``${name}`` and ``${name:format}``; a setting nobody made is an error.

    iPXE itself would put nothing there, and so boot something the author did not mean.
    """

    def value(match: re.Match[str]) -> str:
        name, form = match[1], match[2] or "string"
        if name not in settings:
            raise SpecError(f"the setting ${{{name}}} has no value", where=place, hint=_HINT)
        text = settings[name]
        if form == "hexhyp":
            return text.replace(":", "-")
        if form == "hexraw":
            return text.replace(":", "").replace("-", "")
        return text

    expanded = SETTING.sub(value, line)
    if len(expanded) > MAX_EXPANDED:
        raise SpecError(f"a line of more than {MAX_EXPANDED} characters", where=place)
    if "${" in expanded:
        raise SpecError("a setting in a form that is not understood", where=place, hint=_HINT)
    return expanded
