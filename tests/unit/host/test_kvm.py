"""The verdict on KVM: from what QEMU does, kept for one boot of the host."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imagekit.errors import ToolError
from imagekit.host import kvm, tools
from imagekit.host.run import Completed

Host = dict[str, Any]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose QEMU answers as ``answers`` says: sector status, kernel output or hang."""
    device = tmp_path / "kvm"
    device.touch()
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "vmlinuz-1").write_bytes(b"kernel")
    answers: Host = {"sector": 0x21, "kernel": b"Kernel panic - not syncing: VFS", "runs": 0}

    def run(argv: Sequence[str | Path], **_options: Any) -> Completed:
        words = [str(word) for word in argv]
        if "--version" in words:
            return Completed(tuple(words), 0, b"QEMU 1\n", b"", 0.0)
        answers["runs"] += 1
        if "-kernel" not in words:
            return Completed(tuple(words), answers["sector"], b"", b"failed to set MSR\n", 0.0)
        if answers["kernel"] is None:
            raise ToolError("took too long", output="[0.0] last line")
        return Completed(tuple(words), 0, answers["kernel"], b"", 1.0)

    monkeypatch.setattr(kvm, "DEVICE", device)
    monkeypatch.setattr(kvm, "BOOT", boot)
    monkeypatch.setattr(kvm, "run", run)
    monkeypatch.setattr(tools, "find", lambda _name: tmp_path / "qemu")
    return answers


def test_a_kernel_that_reaches_the_end_of_its_start_proves_kvm(host: Host, tmp_path: Path) -> None:
    assert kvm.kvm_works(tmp_path).works


def test_a_boot_sector_alone_proves_nothing(host: Host, tmp_path: Path) -> None:
    host["kernel"] = None
    verdict = kvm.kvm_works(tmp_path)
    assert not verdict.works and "hangs" in verdict.reason and "last line" in verdict.reason


def test_an_unreadable_kernel_means_no_and_says_what_to_do(host: Host, tmp_path: Path) -> None:
    (tmp_path / "boot/vmlinuz-1").unlink()
    verdict = kvm.kvm_works(tmp_path)
    assert not verdict.works and "chmod" in verdict.reason


def test_what_qemu_says_about_a_failing_boot_sector_is_the_reason(
    host: Host, tmp_path: Path
) -> None:
    host["sector"] = 134
    verdict = kvm.kvm_works(tmp_path)
    assert not verdict.works and "failed to set MSR" in verdict.reason


def test_the_verdict_is_kept_until_the_host_boots_again(host: Host, tmp_path: Path) -> None:
    first = kvm.kvm_works(tmp_path)
    runs = host["runs"]
    assert kvm.kvm_works(tmp_path) == first and host["runs"] == runs
    store = tmp_path / "kvm.json"
    data = json.loads(store.read_text())
    data["key"]["boot_id"] = "another"
    store.write_text(json.dumps(data))
    kvm.kvm_works(tmp_path)
    assert host["runs"] > runs
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", '{"key": 1}', "\0", '{"works": true}'])
def test_a_damaged_cache_is_ignored(host: Host, tmp_path: Path, text: str) -> None:
    (tmp_path / "kvm.json").write_text(text)
    assert kvm.kvm_works(tmp_path).works


def test_no_device_means_no_without_a_probe(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "none")
    assert "does not exist" in kvm.kvm_works(tmp_path).reason
    assert host["runs"] == 0
