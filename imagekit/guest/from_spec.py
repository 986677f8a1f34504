"""The changes a spec asks for, for images whose installer could not make them itself."""

from __future__ import annotations

from pathlib import Path

from imagekit.errors import SpecError
from imagekit.guest.changes import Change, Copy, Hostname, SshKey, Write, parse_script
from imagekit.guest.sshkeys import PublicKey, parse_keys
from imagekit.spec.model import Spec


def changes_from_spec(spec: Spec, base: Path) -> list[Change]:
    """Files, host name, ssh keys and scripts of ``spec``; host paths count from ``base``.

    Raises SpecError for what is missing or wrong.
    """
    changes: list[Change] = []
    for number, file in enumerate(spec.files):
        mode = int(file.mode, 8)
        if file.source is None:
            content = (file.content or "").encode()
            changes.append(Write(file.target, content, mode, file.owner))
            continue
        source = base / file.source
        if not source.exists():
            raise SpecError(
                f"{file.source} does not exist", where=f"files[{number}].source", hint=str(source)
            )
        changes.append(Copy(source, file.target, None if source.is_dir() else mode, file.owner))
    domain = f".{spec.identity.domain}" if spec.identity.domain else ""
    changes.append(Hostname(spec.hostname + domain))
    people = [("root", spec.identity.ssh_keys)]
    people += [(user.name, user.ssh_keys) for user in spec.identity.users]
    for name, lines in people:
        if lines:
            changes.append(SshKey(name, _keys(name, lines)))
    changes += [parse_script(str(base / script)) for script in spec.scripts]
    return changes


def _keys(name: str, lines: list[str]) -> tuple[PublicKey, ...]:
    try:
        return parse_keys("\n".join(lines))
    except ValueError as error:
        raise SpecError(f"the ssh keys of {name}: {error}") from None
