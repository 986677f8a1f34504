"""The chain from keyring to ISO: one wrong link, and nothing is built."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from imagekit.errors import VerificationError
from imagekit.host.openpgp import verify

pytestmark = pytest.mark.real


def gpg(home: Path, *argv: str | Path) -> None:
    base = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", "--passphrase", ""]
    subprocess.run([*base, *map(str, argv)], check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checksum file signed apart and inline, the right keyring and another one."""
    base = tmp_path_factory.mktemp("gpg")
    (base / "SHA256SUMS").write_text(f"{hashlib.sha256(b'iso').hexdigest()}  x.iso\n")
    for name in ("right", "other"):
        home = base / name
        home.mkdir(mode=0o700)
        gpg(home, "--quick-generate-key", f"{name}@example.org", "ed25519", "sign")
        gpg(home, "--output", base / f"{name}.gpg", "--export")
    gpg(base / "right", "--output", base / "SHA256SUMS.sig", "--detach-sign", base / "SHA256SUMS")
    gpg(base / "right", "--output", base / "CHECKSUM", "--clear-sign", base / "SHA256SUMS")
    return base


def test_a_good_signature_is_taken(signed: Path, tmp_path: Path) -> None:
    sums = signed / "SHA256SUMS"
    verify(signed / "SHA256SUMS.sig", signed / "right.gpg", sums)
    verify(signed / "CHECKSUM", signed / "right.gpg", plain=tmp_path / "plain")
    assert (tmp_path / "plain").read_text() == sums.read_text()


def test_another_key_a_changed_file_and_no_signature_are_refused(
    signed: Path, tmp_path: Path
) -> None:
    sums, signature = signed / "SHA256SUMS", signed / "SHA256SUMS.sig"
    with pytest.raises(VerificationError):
        verify(signature, signed / "other.gpg", sums)
    (tmp_path / "changed").write_text(sums.read_text().replace("x.iso", "y.iso"))
    with pytest.raises(VerificationError):
        verify(signature, signed / "right.gpg", tmp_path / "changed")
    with pytest.raises(VerificationError):
        verify(tmp_path / "changed", signed / "right.gpg", sums)
    inline = (signed / "CHECKSUM").read_text().replace("x.iso", "y.iso")
    (tmp_path / "CHECKSUM").write_text(inline)
    with pytest.raises(VerificationError):
        verify(tmp_path / "CHECKSUM", signed / "right.gpg", plain=tmp_path / "plain")
