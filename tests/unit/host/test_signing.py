"""What a file of public ssh keys says of a key holds for bundles, too."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imagekit.errors import ImagekitError, SpecError, VerificationError
from imagekit.host.signing import check_signature, sign_ssh

DATA = b"sums\n"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me valid-before=1"]
    argv += ["-f", str(path)]
    subprocess.run(argv, check=True)
    return path


def check(key: Path, base: Path, before: str) -> None:
    """Check a signature by ``key``, whose public half stands after ``before`` in a file."""
    trust, scratch = base / "trust", base / "scratch"
    scratch.mkdir(exist_ok=True)
    trust.write_text(f"# keys\n{before}{key.with_suffix('.pub').read_text()}")
    check_signature(DATA, sign_ssh(DATA, key, scratch), trust, scratch)


@pytest.mark.parametrize(
    "before",
    [
        "",
        "me@here ",
        "me,you ",
        'me valid-before="20991231" ',
        'me valid-after="20200101",valid-before="20991231235959Z" ',
        'me namespaces="imagekit-bundle" ',
        'me namespaces="git,imagekit-bundle,file",valid-after="202001010000" ',
        'expiry-time="20991231",no-pty ',
        'restrict,command="/bin/true --x" ',
    ],
)
def test_a_key_that_is_valid_for_bundles_is_taken(before: str, key: Path, tmp_path: Path) -> None:
    check(key, tmp_path, before)


@pytest.mark.parametrize(
    "before",
    [
        'me valid-before="20200101" ',
        'me VALID-BEFORE="20200101" ',
        "me valid-before=20200101 ",
        'me valid-after="20990101" ',
        'me namespaces="imagekit-bundle",valid-before="202001010000Z" ',
        'expiry-time="20200101" ',
        'no-pty,expiry-time="202001010000" ',
    ],
)
def test_a_key_that_is_not_valid_now_is_not_taken(before: str, key: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError):
        check(key, tmp_path, before)


@pytest.mark.parametrize(
    "before",
    [
        'me namespaces="git" ',
        'me namespaces="imagekit-build,imagekit-bundles" ',
        "me cert-authority ",
        'cert-authority,principals="a" ',
        'me valid-before="soon" ',
        'me valid-before="2020" ',
        'me valid-after="20200101123" ',
    ],
)
def test_a_key_for_something_else_signs_no_bundle(before: str, key: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="may sign bundles") as caught:
        check(key, tmp_path, before)
    assert isinstance(caught.value, ImagekitError) and caught.value.where is not None
