"""The small parts of a proof: device numbers, xenstore, overlays, reports, the lab's stages."""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.disk.qcow2 import write_qcow2
from imagekit.disk.vhd import write_vhd
from imagekit.errors import ProofError, SpecError, ToolError
from imagekit.proof import boots, overlay
from imagekit.proof.boots import Wanted
from imagekit.proof.console import expectation
from imagekit.proof.findings import Finding
from imagekit.proof.guestconfig import GuestDisk
from imagekit.proof.machine import Shape
from imagekit.proof.observed import disk_name, frontends
from imagekit.proof.outcome import require_up
from imagekit.proof.report import Boot, Failure, Outcome, ProofReport, read_proof, table
from imagekit.proof.session import Rules, bounded_command
from imagekit.proof.versions import Component, LabVersions
from imagekit.vm.qmp import Qmp

MIB = 1 << 20


@pytest.mark.parametrize(
    ("number", "name"),
    # The examples of xen-vbd-interface(7), and those of Linux drivers/block/xen-blkfront.c.
    [
        (51712, "xvda"),
        (51713, "xvda1"),
        (51728, "xvdb"),
        (268439552, "xvdq"),
        (268439555, "xvdq3"),
        (768, "xvda"),
        (832, "xvdb"),
        (5632, "xvdc"),
        (2048, "xvda"),
        (2065, "xvdb1"),
        (1 << 28 | 26 << 8, "xvdaa"),
        (99, "vbd99"),
    ],
)
def test_a_block_device_number_gets_the_guests_name_for_it(number: int, name: str) -> None:
    assert disk_name(number) == name


def test_only_connected_frontends_count_as_seen_by_the_guest() -> None:
    text = (
        '/local/domain/3/device/vbd/51712/state = "4"\n'
        '/local/domain/3/device/vbd/51728/state = "1"\n'
        '/local/domain/3/device/vif/0/mac = "00:16:3e:37:1e:ee"\n'
        '/local/domain/3/device/vif/0/state = "4"\n'
        '/local/domain/3/device/vif/1/mac = "00:16:3e:37:1e:ef"\n'
        '/local/domain/3/device/vif/1/state = "3"\n'
    )
    assert frontends(text) == (["xvda"], ["00:16:3e:37:1e:ee"])


@given(st.text(max_size=200))
def test_any_xenstore_listing_can_be_read(text: str) -> None:
    frontends(text)


def disk(kind: str, readonly: bool = False) -> GuestDisk:
    return GuestDisk("/x", kind, "xvda", readonly, False)


def test_the_device_is_as_large_as_a_raw_file_and_larger_for_growing_formats(
    tmp_path: Path,
) -> None:
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"x" * 700)
    assert overlay.device_bytes(disk("raw"), raw) == 1024
    with raw.open("r+b") as stream:
        stream.truncate(64 * MIB)
    write_qcow2(raw, tmp_path / "a.qcow2")
    write_vhd(raw, tmp_path / "dynamic.vhd")
    write_vhd(raw, tmp_path / "fixed.vhd", subformat="fixed")
    assert overlay.device_bytes(disk("qcow2"), tmp_path / "a.qcow2") >= 128 * MIB
    assert overlay.device_bytes(disk("vhd"), tmp_path / "dynamic.vhd") >= 128 * MIB
    for name, kind, readonly in (("fixed.vhd", "vhd", False), ("a.qcow2", "qcow2", True)):
        size = (tmp_path / name).stat().st_size
        assert overlay.device_bytes(disk(kind, readonly), tmp_path / name) == size


def test_no_image_is_opened_for_writing_or_probed(tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.touch()
    node = overlay.Overlaid(image, tmp_path / "o.qcow2").node("/dev/fdset/0", "/dev/fdset/1")
    assert node["file"]["filename"] == "/dev/fdset/1"
    assert node["backing"]["file"]["filename"] == "/dev/fdset/0"
    assert node["backing"]["driver"] == "raw"
    assert node["backing"]["read-only"] is True
    assert node["backing"]["file"]["read-only"] is True


def boot(**changes: Any) -> Boot:
    values = {"ident": "web-pv", "name": "web", "mode": "pv", "boot": "pygrub", "format": "raw"}
    more = {"config": "/b/web.cfg", "config_sha256": "0" * 64, "outcome": Outcome.UP}
    return Boot(**{**values, **more, **changes})


def test_a_report_is_ok_only_when_every_guest_is_up() -> None:
    bad = boot(
        outcome=Outcome.FAILED,
        failure=Failure("no-blkfront", "no driver", "add it", console=("a", "b")),
    )
    assert ProofReport("xen", (boot(),), {}).ok
    assert not ProofReport("xen", (boot(), bad), {}).ok
    assert not ProofReport("xen", (), {}).ok
    require_up(ProofReport("xen", (boot(),), {}))
    with pytest.raises(ProofError, match="1 of 2 boots failed"):
        require_up(ProofReport("xen", (boot(), bad), {}))


def test_the_report_is_written_whole_and_reads_back(tmp_path: Path) -> None:
    report = ProofReport("xen", (boot(dhcp={"00:16:3e:00:00:01": None}),), {"lab": 1.5})
    path = report.write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["proof.json"]
    value = json.loads(path.read_text())
    assert (value["proof_version"], value["ok"], value["under"]) == (2, True, "xen")
    assert value["boots"][0]["config_sha256"] == "0" * 64
    assert value["seconds"] == {"lab": 1.5}


def test_a_report_on_a_guest_that_failed_is_read_as_it_was_written(tmp_path: Path) -> None:
    finding = Finding("segfault", "a[1]: segfault")
    failure = Failure("no-blkfront", "no driver", "add it", console=("a", "b"))
    bad = boot(outcome=Outcome.FAILED, failure=failure, findings=(finding,), seconds=3.25)
    versions = LabVersions("tcg", Component("7.2.22", "4" * 64), reason="no KVM")
    good = boot(dhcp={"00:16:3e:00:00:01": None})
    report = ProofReport("xen", (good, bad), {"lab": 1.5}, (versions,))
    path = report.write(tmp_path)
    assert read_proof(tmp_path) == report
    value = json.loads(path.read_text())
    wrong: list[dict[str, Any]] = [{"proof_version": 1}, {"boots": [{}]}, {"under": 1}]
    for changes in wrong:
        path.write_text(json.dumps({**value, **changes}))
        with pytest.raises(SpecError, match=r"proof_version|boots\[0\]|under") as caught:
            read_proof(tmp_path)
        assert caught.value.where == str(path)


def test_the_table_shows_why_a_guest_is_not_up() -> None:
    failure = Failure("no-blkfront", "no driver", "add it", "ALERT!", console=("last words",))
    text = table(ProofReport("xen", (boot(outcome=Outcome.FAILED, failure=failure),), {}))
    for part in ("no-blkfront", "no driver", "hint: add it", "ALERT!", "| last words"):
        assert part in text


def test_wishes_are_checked() -> None:
    assert Wanted.checked(["pv", "pv"], ["direct"], []).modes == ("pv",)
    for wrong in (["PV"], ["xen"]):
        with pytest.raises(SpecError):
            Wanted.checked(wrong)
    with pytest.raises(SpecError):
        Wanted.checked([], ["grub"])
    with pytest.raises(SpecError):
        Wanted.checked([], [], ["vmdk"])


def test_somebody_elses_image_plays_the_first_disk(tmp_path: Path) -> None:
    config = tmp_path / "their.cfg"
    config.write_text('name = "x"\ndisk = [ "/dev/vg0/x,raw,xvda,w", "/srv/y,raw,xvdb,w" ]\n')
    (trial,) = boots.trial_of_config(config, tmp_path / "image")
    assert trial.host_path("/dev/vg0/x") == tmp_path / "image"
    assert trial.host_path("/srv/y") == Path("/srv/y")
    assert trial.config.data == config.read_bytes()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('disk = [ "/nowhere/at/all,raw,xvda,w" ]', "no disk"),
        ('disk = [ "relative,raw,xvda,w" ]', "absolute"),
        ('disk = [ "/a/../b,raw,xvda,w" ]', "absolute"),
        ('kernel = "/nowhere/vmlinuz"', "no file"),
    ],
)
def test_what_the_config_names_must_be_there(tmp_path: Path, line: str, reason: str) -> None:
    config = tmp_path / "their.cfg"
    config.write_text(f'name = "x"\n{line}\n')
    (trial,) = boots.trial_of_config(config, None)
    with pytest.raises(SpecError, match=re.escape(reason)):
        boots.check_trial(trial)


def test_a_directory_without_a_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a build directory"):
        boots.trials_of_build(tmp_path, Wanted(), tmp_path)


def answering(answers: list[bytes]) -> Qmp:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            for answer in answers:
                theirs.recv(65536)
                theirs.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return Qmp(ours)


def test_a_command_gets_its_own_answer_among_events() -> None:
    answer = b'{"event": "STOP"}\n{"return": {"x": 1}, "id": "1"}\n'
    assert answering([answer]).command("stop") == {"x": 1}


@pytest.mark.parametrize("answer", [b'{"error": {"desc": "no"}, "id": "1"}\n', b"not json\n", b""])
def test_a_refusal_nonsense_and_silence_of_qemu_are_errors(answer: bytes) -> None:
    with pytest.raises(ToolError):
        answering([answer]).command("stop", timeout=5)


def test_the_lab_reaches_no_network_and_writes_no_disk() -> None:
    argv = Shape().argv(Path("/disk"))
    pairs = list(itertools.pairwise(argv))
    assert ("-nic", "none") in pairs
    assert not any(word in ("-netdev", "-net", "-hda") for word in argv)
    (drive,) = [value for name, value in pairs if name == "-drive"]
    assert "snapshot=on" in drive.split(",")
    assert "format=raw" in drive.split(",")


def test_hvm_guests_get_more_time_unless_the_user_says_how_much() -> None:
    rules = Rules(expectation(None), None, 300.0)
    assert [rules.seconds(mode) for mode in ("pv", "pvh", "hvm")] == [300, 300, 1200]
    assert Rules(expectation(None), 20.0).seconds("hvm") == 20


@pytest.mark.parametrize("command", ["exit 3", "test 'a b' = \"a b\"; exit 3", "(exit 3)"])
def test_a_command_of_the_proof_reaches_the_shell_as_it_was_written(command: str) -> None:
    bounded = bounded_command(command)
    assert bounded is not None and bounded.startswith("timeout ")
    assert subprocess.run(["sh", "-c", bounded], check=False).returncode == 3
    assert bounded_command(None) is None
