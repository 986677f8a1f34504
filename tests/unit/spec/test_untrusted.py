"""``--untrusted``: what makes a spec's writer root on the host is refused, by line, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from oracles.builds import ROOT
from typer.testing import CliRunner

from imagekit.cli.main import make_app
from imagekit.errors import SpecError
from imagekit.spec.load import load_spec
from imagekit.spec.lock import Lock, lock_text
from imagekit.spec.untrusted import check_untrusted

HEAD = "name: web1\nos: {suite: bookworm}\n"
DIB = f"{HEAD}install: {{method: diskimage-builder, elements: [vm]"
ISO = f"{HEAD}install: {{method: iso, iso: ./x.iso"
DEBS = f"{HEAD}install: {{method: debootstrap}}\n"


def checked(base: Path, text: str) -> None:
    (base / "web1.yaml").write_text(text)
    check_untrusted(load_spec(base / "web1.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        DEBS,
        f"{DEBS}files: [{{target: /etc/motd, content: hello}}]\nnics: [{{bridge: br0}}]\n"
        "machine: {raw: {xl: {}}, cpu: {weight: 512}}\n"
        "identity: {root_password: {env: HASH}, users: [{name: anna}]}\n",
        f"{HEAD}install: {{method: debootstrap, kernel: linux-image-amd64, elements: [base]}}\n",
        f"{HEAD}install: {{method: diskimage-builder, elements: [debian-minimal, vm]}}\n",
        f"{HEAD}install: {{method: iso, iso: ./x.iso, checksums: ./S, keyring: ./k.gpg}}\n",
        f"{ISO}, args: 'quiet http://8.8.8.8/x'}}\n".replace(
            "suite", "mirror: 'http://m.test/', suite"
        ),
        f"{DEBS}".replace("suite", "mirror: 'http://192.168.7.1/d', suite"),
        f"{HEAD}install: {{method: netboot, mirror: 'http://m.test/debian'}}\n",
        (ROOT / "examples/web01.yaml").read_text(),
    ],
)
def test_what_asks_for_nothing_of_the_host_is_taken(text: str, tmp_path: Path) -> None:
    checked(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (f"{DEBS}scripts: [./setup]\n", "4:11 scripts[0]"),
        (f"{DEBS}nics: [{{}}, {{script: vif-route}}]\n", "nics[1].script"),
        (f"{DEBS}nics:\n- script: /tmp/x\n", "5:3 nics[0].script"),
        (f"{DEBS}machine: {{raw: {{xl: {{device_model_override: /x}}}}}}\n", "machine.raw.xl"),
        (f"{DEBS}machine: {{raw: {{xl: {{vga: std}}}}}}\n", "machine.raw.xl"),
        (f"{DEBS}files: [{{target: /x, source: /etc/shadow}}]\n", "files[0].source"),
        (f"{DEBS}identity: {{root_password: {{file: ./h}}}}\n", "identity.root_password.file"),
        (
            f"{DEBS}identity: {{users: [{{name: a, password: {{file: h}}}}]}}\n",
            "identity.users[0].password.file",
        ),
        (f"{HEAD}install: {{method: debootstrap, element_path: [./e]}}\n", "install.element_path"),
        (f"{ISO}, reach: ['x.test:80']}}\n", "install.reach"),
        (f"{ISO}, args: 'a=http://10.0.2.2:631/x'}}\n", "install.args"),
        (f"{ISO}, args: 'a=http://ok.test b=ftp://u:p@[::1]/x'}}\n", "install.args"),
        (f"{ISO}}}\n".replace("suite", "mirror: 'http://127.0.0.1:9/d', suite"), "os.mirror"),
        (f"{ISO}}}\n".replace("suite", "mirror: 'http://192.168.7.1/d', suite"), "os.mirror"),
        (f"{ISO}}}\n".replace("suite", "proxy: 'http://169.254.169.254', suite"), "os.proxy"),
        (
            f"{ISO}}}\n".replace("suite", "mirror: 'http://8.8.8.8:631/d', suite")
            + "nics: [{network: {addresses: [8.8.8.9/24], gateways: [8.8.8.8]}}]\n",
            "os.mirror",
        ),
        (
            f"{HEAD}install: {{method: debootstrap, element_environment: {{DIB_X: a}}}}\n",
            "install.element_environment",
        ),
        (f"{HEAD}install: {{method: debootstrap, kernel: ./vmlinuz}}\n", "install.kernel"),
        (
            f"{HEAD}install: {{method: debootstrap, kernel: /b/k, initrd: /b/i}}\n",
            "install.initrd",
        ),
        (
            f"{HEAD}install: {{method: debootstrap, kernel: ./vmlinuz, modules: ./m}}\n",
            "install.modules",
        ),
        (
            f"{DIB}, element_path: [./e]}}\n",
            "install.element_path",
        ),
        (
            f"{DIB}, environment: {{A: b}}}}\n",
            "install.environment",
        ),
        (
            f"{DIB}, block_device: ./b}}\n",
            "install.block_device",
        ),
        (f"{HEAD}install: {{method: iso, iso: ./x.iso, template: ./t}}\n", "install.template"),
        (
            "name: web1\nos: {suite: bookworm, keyring: ./k.gpg}\ninstall: {method: debootstrap}\n",
            "os.keyring",
        ),
    ],
)
def test_what_makes_its_writer_root_is_refused_by_line(
    text: str, field: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        checked(tmp_path, text)
    assert f"{field}: " in str(caught.value) and "web1.yaml:" in str(caught.value)
    assert caught.value.hint is not None and "--untrusted" in caught.value.hint


def test_all_of_it_is_named_at_once(tmp_path: Path) -> None:
    text = f"{DEBS}scripts: [./a, ./b]\nnics: [{{script: x}}]\nfiles: [{{target: /x, source: y}}]\n"
    with pytest.raises(SpecError) as caught:
        checked(tmp_path, text)
    for field in ("scripts[0]", "scripts[1]", "nics[0].script", "files[0].source"):
        assert field in caught.value.what


@pytest.mark.parametrize("command", ["build", "plan"])
def test_the_commands_refuse_before_anything_is_done(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    spec, out = tmp_path / "web1.yaml", tmp_path / "out"
    spec.write_text(f"{DEBS}scripts: [./setup]\n")
    words = [command, str(spec), "-o", str(out), "--untrusted"]
    for more in ([], ["--set", "scripts=[./other]"]):
        done = CliRunner().invoke(make_app([command]), [*words, *more])
        assert isinstance(done.exception, SpecError) and "scripts[0]" in done.exception.what
    assert not out.exists() and not (tmp_path / "cache").exists()
    done = CliRunner().invoke(make_app([command]), words[:-1])
    assert "there is no script" in str(done.exception)


def test_a_lock_vouches_for_packages_and_so_needs_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    spec, locked = tmp_path / "web1.yaml", tmp_path / "web1.lock"
    spec.write_text(DEBS)
    lock = Lock(name="web1", spec_sha256="0" * 64, method="debootstrap", source_date_epoch=0)
    locked.write_text(lock_text(lock))
    words = ["build", str(spec), "-o", str(tmp_path / "out"), "--locked", str(locked)]
    done = CliRunner().invoke(make_app(["build"]), [*words, "--untrusted"])
    assert isinstance(done.exception, SpecError)
    assert done.exception.where == "--untrusted, --locked"
    assert not (tmp_path / "out").exists()
