"""OpenPGP signatures: those of keys that count, over what was signed, and no others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from imagekit.errors import VerificationError
from imagekit.host.openpgp import verify
from imagekit.host.signing import check_signature
from imagekit.netboot import request, sources

DATA = b"what was signed\n"
LONG_AGO = ("--faked-system-time", "20200101T000000!")


class Keys:
    """A directory of gpg's: keys by name, each exported as NAME.gpg."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.gpg(*LONG_AGO, "--quick-generate-key", "good", "ed25519", "sign", "never")
        self.gpg("--quick-generate-key", "other", "ed25519", "sign", "never")
        self.gpg("--quick-generate-key", "revoked", "ed25519", "sign", "never")
        self.gpg(*LONG_AGO, "--quick-generate-key", "old", "ed25519", "sign", "1y")
        (home / "data").write_bytes(DATA)
        for name, more in (
            ("good", ()),
            ("other", ()),
            ("revoked", ()),
            ("old", LONG_AGO),
        ):
            self.sign(name, *more)
        self.sign("good", "--default-sig-expire", "1d", *LONG_AGO, target="short")
        self._revoke("revoked")
        for name in ("good", "other", "revoked", "old"):
            self.gpg("--output", home / f"{name}.gpg", "--export", name)
        every = ("good", "revoked", "old")
        (home / "all.gpg").write_bytes(b"".join((home / f"{n}.gpg").read_bytes() for n in every))

    def gpg(self, *argv: str | Path) -> bytes:
        base = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes"]
        base += ["--passphrase", "", "--pinentry-mode", "loopback"]
        done = subprocess.run([*base, *map(str, argv)], check=True, capture_output=True, timeout=60)
        return done.stdout

    def sign(self, name: str, *more: str, target: str = "") -> None:
        """NAME.sig of the file data, NAME.asc the same in one file with it."""
        for how, suffix in (("--detach-sign", "sig"), ("--clear-sign", "asc")):
            out = self.home / f"{target or name}.{suffix}"
            self.gpg(*more, "--local-user", name, "--output", out, how, self.home / "data")

    def _revoke(self, name: str) -> None:
        listed = self.gpg("--with-colons", "--list-keys", name).decode()
        fingerprint = next(x for x in listed.splitlines() if x.startswith("fpr")).split(":")[9]
        made = (self.home / f"openpgp-revocs.d/{fingerprint}.rev").read_text()
        (self.home / "revocation").write_text(made.replace(":-----BEGIN", "-----BEGIN"))
        self.gpg("--import", self.home / "revocation")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    # gpg's agent wants a short name for its socket.
    home = Path(tmp_path_factory.mktemp("g")) / "h"
    made = Keys(home)
    yield made
    argv = ["gpgconf", "--homedir", str(home), "--kill", "all"]
    subprocess.run(argv, check=False, capture_output=True)


def apart(keys: Keys, name: str, keyring: str, _tmp_path: Path) -> None:
    verify(keys.home / f"{name}.sig", keys.home / f"{keyring}.gpg", keys.home / "data")


def inline(keys: Keys, name: str, keyring: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    try:
        verify(keys.home / f"{name}.asc", keys.home / f"{keyring}.gpg", plain=plain)
    except VerificationError:
        assert not plain.exists()
        raise
    assert plain.read_bytes() == DATA


def of_a_bundle(keys: Keys, name: str, keyring: str, tmp_path: Path) -> None:
    signature = ("SHA256SUMS.asc", (keys.home / f"{name}.sig").read_bytes())
    check_signature(DATA, signature, keys.home / f"{keyring}.gpg", tmp_path)


Check = Callable[[Keys, str, str, Path], None]
every_way = pytest.mark.parametrize("check", [apart, inline, of_a_bundle])


@every_way
@pytest.mark.parametrize("keyring", ["good", "all"])
def test_a_good_signature_is_taken(check: Check, keyring: str, keys: Keys, tmp_path: Path) -> None:
    check(keys, "good", keyring, tmp_path)


@every_way
@pytest.mark.parametrize(
    ("name", "keyring", "said"),
    [
        ("revoked", "revoked", "was revoked"),
        ("revoked", "all", "was revoked"),
        ("old", "old", "key that made it has expired"),
        ("short", "good", "the signature has expired"),
        ("other", "all", "no key of the keyring"),
    ],
)
def test_what_no_valid_key_signed_is_refused(
    check: Check, name: str, keyring: str, said: str, keys: Keys, tmp_path: Path
) -> None:
    with pytest.raises(VerificationError, match=said):
        check(keys, name, keyring, tmp_path)


def test_of_several_signatures_one_must_be_good_and_none_wrong(keys: Keys, tmp_path: Path) -> None:
    home, both = keys.home, tmp_path / "both.sig"
    good = (home / "good.sig").read_bytes()
    for name in ("revoked", "old", "other"):
        other = (home / f"{name}.sig").read_bytes()
        both.write_bytes(other + good)
        verify(both, home / "all.gpg", home / "data")
        both.write_bytes(good + other)
        verify(both, home / "all.gpg", home / "data")
        both.write_bytes(other + other)
        with pytest.raises(VerificationError):
            verify(both, home / "all.gpg", home / "data")
    (tmp_path / "changed").write_bytes(DATA + b"!")
    keys.gpg("--output", tmp_path / "wrong.sig", "--detach-sign", tmp_path / "changed")
    both.write_bytes(good + (tmp_path / "wrong.sig").read_bytes())
    with pytest.raises(VerificationError, match="was changed"):
        verify(both, home / "all.gpg", home / "data")


@pytest.mark.parametrize("content", [b"", b"rubbish", DATA])
def test_what_is_no_signature_is_refused(content: bytes, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "sig").write_bytes(content)
    with pytest.raises(VerificationError):
        verify(tmp_path / "sig", keys.home / "good.gpg", keys.home / "data")
    with pytest.raises(VerificationError):
        verify(keys.home / "good.sig", tmp_path / "none.gpg", keys.home / "data")


def test_a_keyring_without_a_slash_is_a_file_here(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(keys.home)
    verify(Path("good.sig"), Path("good.gpg"), Path("data"))


@pytest.mark.parametrize(("name", "good"), [("good", True), ("revoked", False), ("old", False)])
def test_a_mirror_is_believed_when_a_valid_key_signed_it(
    name: str, good: bool, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (keys.home / f"{name}.asc").read_bytes()
    monkeypatch.setattr(sources, "_get", lambda *_: SimpleNamespace(content=lambda: text))
    expected = "no SHA-256 of .* was signed" if good else "signature is not good"
    with pytest.raises(VerificationError, match=expected):
        sources.from_mirror(
            "http://mirror.test", "bookworm", "amd64", tmp_path, keyring=keys.home / "all.gpg"
        )


def test_the_keyring_of_a_request_lies_where_the_request_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def from_mirror(*_where: object, keyring: Path) -> sources.Installer:
        seen.append(keyring)
        return sources.Installer(tmp_path / "k", tmp_path / "i", "0" * 64, "0" * 64, "")

    monkeypatch.setattr(sources, "from_mirror", from_mirror)
    for keyring in ("own.gpg", "sub/own.gpg", "/etc/own.gpg", None):
        more = f", keyring: {keyring}" if keyring else ""
        (tmp_path / "g.yaml").write_text(
            "name: web1\nmac: 00:16:3e:10:20:30\n"
            f"installer: {{mirror: 'http://mirror.test', suite: bookworm{more}}}\n"
        )
        request.prepare(request.load(tmp_path / "g.yaml"), tmp_path, tmp_path)
    base = [tmp_path / "own.gpg", tmp_path / "sub/own.gpg"]
    assert seen == [*base, Path("/etc/own.gpg"), sources.DEBIAN_KEYRING]
