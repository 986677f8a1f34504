"""What the failure of apt, mmdebstrap or debootstrap means: which mirror, key, suite or package.

The texts are those of apt-pkg/acquire-item.cc, acquire-worker.cc and methods/ (connect.cc, http.cc,
gpgv.cc) of apt, and of debootstrap's functions.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from imagekit.errors import (
    DownloadError,
    HostError,
    ImagekitError,
    SpecError,
    ToolError,
    VerificationError,
)
from imagekit.host.distro_info import suites_of
from imagekit.installs.mirrors import Mirrors
from imagekit.spec.credentials import without_credentials_in
from imagekit.spec.load import SpecFile
from imagekit.spec.model import Spec
from imagekit.spec.nearest import did_you_mean

_NO_PACKAGE = re.compile(r"Unable to locate package (\S+)|Couldn't find these debs: (\S+)")
_EXPIRED = re.compile(r"Release file for (\S+) is expired \(invalid since ([^)]*)\)")
_NOT_YET = re.compile(r"Release file for (\S+) is not valid yet \(invalid for another ([^)]*)\)")
_NO_RELEASE = re.compile(
    r"does not have a Release file|404 +Not Found.*Release|Invalid Release file, no entry|"
    r"No such script|Failed getting release file"
)
_NOT_AN_ARCHIVE = re.compile(r"doesn't contain valid data|Clearsigned file isn't valid")
_SIGNATURE = re.compile(
    r"NO_PUBKEY|BADSIG|EXPKEYSIG|Invalid signature|signatures? (were|was) invalid|"
    r"Release signed by unknown key|signature verification"
)
_NOT_SIGNED = "is not signed"
"""Also what apt says of an InRelease that a server refuses to hand out."""
_STATUS = re.compile(r"(?:Failed to fetch|^Err:\d+) +(\S+).*?\s([45]\d\d) +([A-Z][A-Za-z ]*)", re.M)
_UNREACHABLE = re.compile(
    r"Could not (connect|resolve)|Connection (refused|failed|timed out)|Temporary failure|"
    r"Failed to fetch"
)
_ANSWERS = {
    "401": "the server wants a password: write it into the mirror's URL, or into apt's auth.conf.d",
    "403": "the server refuses this host, or the path is wrong",
    "407": "the proxy wants a password: http://USER:PASSWORD@HOST:PORT in os.proxy",
    "404": "the mirror's index names files that it does not have: it is being updated; try again "
    "in some minutes, or use another mirror",
}


def explain(error: ToolError, file: SpecFile, log: Path, mirrors: Mirrors) -> ImagekitError:
    """Turn the failure of an installer into what the user can act on.

    ``log`` is what it said, ``mirrors`` are those that it asked.
    """
    if "took longer than" in error.what or "reached its bound" in error.what:
        return error  # whatever the log says besides
    text = log.read_text(errors="replace") if log.exists() else error.output
    hint = f"the whole log is in {log}"
    missing = _NO_PACKAGE.search(text)
    if missing:
        name = missing[1] or missing[2]
        where, other = _wanted_by(file, name)
        what = f"{file.spec.os.suite} has no package {name}"
        return SpecError(what, where=where, hint=f"{other}{hint}")
    told = _of_release(text, file, mirrors, hint) or _of_server(text, file, mirrors, hint)
    if told is None and "No space left on device" in text:
        return HostError(
            "no space left while installing packages",
            hint="set IMAGEKIT_CACHE and TMPDIR to a larger file system",
        )
    return told or error


def _of_release(text: str, file: SpecFile, mirrors: Mirrors, hint: str) -> ImagekitError | None:
    """The error that the Release file of a mirror makes: absent, expired, not signed by our key."""
    suite = file.spec.os.suite
    if found := _EXPIRED.search(text):
        return VerificationError(
            f"the Release file of the mirror has expired, {found[2]} ago: {_url(found[1])}",
            where=_mirror_field(file, found[1]),
            hint="the mirror is out of date: use another one, or check this host's clock (date)",
        )
    if found := _NOT_YET.search(text):
        return VerificationError(
            f"the Release file of the mirror is from the future, by {found[2]}: {_url(found[1])}",
            where=_mirror_field(file, found[1]),
            hint="this host's clock is slow: set it (date)",
        )
    if _NOT_AN_ARCHIVE.search(text):
        return DownloadError(
            f"the mirror answers with something that is not an archive of {suite}",
            where=_mirror_field(file, ""),
            hint=f"a login page of the network, or a wrong URL; {hint}",
        )
    if _NO_RELEASE.search(text) and not _status(text, ("401", "407")):
        asked = ", ".join(f"{_url(url)}/dists/{suite}" for url in _urls(mirrors)[:1])
        known = suites_of(file.spec.os.distribution)
        meant = "" if suite in known else did_you_mean(suite, known)
        return SpecError(
            f"the mirror has no suite {suite}{meant}"
            + (f": nothing is at {asked}" if asked else ""),
            where=file.where("os", "suite"),
            hint=f"check os.suite, and the path of the mirror in os.mirror; {hint}",
        )
    if _SIGNATURE.search(text) or (_NOT_SIGNED in text and not _status(text)):
        return VerificationError(
            f"the signature of the archive does not match the keyring for {suite}",
            where=file.where("os", "suite"),
            hint=f"name the right keyring in os.keyring; {hint}",
        )
    return None


def _of_server(text: str, file: SpecFile, mirrors: Mirrors, hint: str) -> ImagekitError | None:
    """The error of a server that answers with one, or not at all."""
    answer = _status(text)
    if answer is not None:
        url, code, reason = answer
        return DownloadError(
            f"the mirror answered HTTP {code} {reason} for {_url(url)}",
            where=_mirror_field(file, url),
            hint=f"{_ANSWERS.get(code, 'try again later, or use another mirror')}; {hint}",
        )
    if not _UNREACHABLE.search(text):
        return None
    hosts = ", ".join(sorted({urlsplit(url).hostname or "?" for url in _urls(mirrors)}))
    return DownloadError(
        f"the mirror cannot be reached ({hosts})", where=_mirror_field(file, ""), hint=hint
    )


def _status(text: str, codes: tuple[str, ...] = ()) -> tuple[str, str, str] | None:
    for url, code, reason in _STATUS.findall(text):
        if not codes or code in codes:
            return url, code, reason.strip()
    return None


def _wanted_by(file: SpecFile, name: str) -> tuple[str, str]:
    """Where the spec asks for the package ``name``, and what to do if it does not by itself."""
    install = file.spec.install
    if getattr(install, "kernel", None) == name:
        return file.where("install", "kernel"), "name the distribution's kernel package; "
    for index, wanted in enumerate(getattr(install, "packages", ())):
        if re.split("[:=/]", wanted)[0] == name:
            return file.where("install", "packages", index), ""
    return file.where("install", "packages"), f"{_asker(file.spec)} needs it; "


def _asker(spec: Spec) -> str:
    return f"imagekit itself, or an element or the kernel of {spec.os.distribution},"


def _mirror_field(file: SpecFile, url: str) -> str:
    security = file.spec.os.security_mirror
    if security and url.startswith(_url(security).rstrip("/")):
        return file.where("os", "security_mirror")
    return file.where("os", "mirror")


def _urls(mirrors: Mirrors) -> list[str]:
    return [line.split()[1] for line in mirrors.public()]


def _url(url: str) -> str:
    return without_credentials_in(url).rstrip("/")
