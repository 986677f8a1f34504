"""Journals that undo exactly what was made, and what a request for a guest may say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from support.domains import FACTS
from typer.testing import CliRunner

from imagekit.cli.provision import destroy as destroy_command
from imagekit.domain.facts import BuildFacts, DiskFacts, PygrubView, Verdict
from imagekit.domain.model import Nic
from imagekit.errors import BusyError, ExistsError, SpecError
from imagekit.guest.network.networkd import network_file
from imagekit.provision.golden import sweep
from imagekit.provision.guest_facts import guest_facts, root_uuid
from imagekit.provision.identity import check_size, vifs_of
from imagekit.provision.journal import guests_directory, journal, record_of, recorded
from imagekit.provision.provision import destroy
from imagekit.provision.request import GuestRequest, make_request, read_guests
from imagekit.provision.seed import network_config


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEKIT_STATE", str(tmp_path / "state"))
    return tmp_path


def test_undoing_takes_away_what_was_made_and_nothing_else(state: Path) -> None:
    (state / "other").mkdir()
    with journal("web01") as found:
        made = found.directory(state / "web01")
        (made / "disk").write_text("x")
        found.link(state / "auto.cfg", made / "web01.cfg")
        found.undo()
    assert sorted(p.name for p in state.iterdir()) == ["other", "state"]
    assert list(guests_directory().glob("*.journal")) == []


def test_what_somebody_put_in_place_of_a_guest_stays(state: Path) -> None:
    with journal("web01") as found:
        made = found.directory(state / "web01")
        found.link(state / "auto.cfg", made / "web01.cfg")
    made.rename(state / "moved")
    made.mkdir()
    (made / "precious").write_text("x")
    (state / "auto.cfg").unlink()
    (state / "auto.cfg").symlink_to("/elsewhere")
    destroy("web01")
    assert (made / "precious").read_text() == "x"
    assert (state / "auto.cfg").is_symlink()


def test_a_kill_between_the_line_and_the_directory_leaves_a_strangers_directory(
    state: Path,
) -> None:
    with journal("web01") as found:
        found.add("directory", path=str(state / "web01"))
    (state / "web01").mkdir()
    (state / "web01/precious").write_text("x")
    assert sweep() == ["web01"]
    assert (state / "web01/precious").exists()


def test_a_record_that_cannot_be_read_hides_no_other_guest(state: Path) -> None:
    for name, files in (("bad", {"disk": 5}), ("good", {"disk": "/g/good.raw"})):
        with journal(name) as found:
            found.add("complete", name=name, files=files)
    errors: list[SpecError] = []
    assert list(recorded(errors.append)) == ["good"]
    assert [str(guests_directory() / "bad.journal")] == [error.where for error in errors]
    assert record_of("good") is not None
    assert record_of("absent") is None and record_of("../good") is None
    with pytest.raises(SpecError, match="files"):
        record_of("bad")
    app = typer.Typer()
    app.command()(destroy_command)
    done = CliRunner().invoke(app, ["--list"], catch_exceptions=False)
    assert done.exit_code == 0 and "good" in done.output and "bad.journal" in done.output


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400))
def test_a_journal_cut_off_anywhere_can_be_swept(length: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as text, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEKIT_STATE", text)
        place = Path(text) / "guest"
        with journal("g") as found:
            found.directory(place)
            found.add("complete", name="g", files={"disk": str(place)})
        data = found.path.read_bytes()
        found.path.write_bytes(data[:length])
        whole = "g" in recorded()
        assert whole == (length >= len(data) - 1)
        swept = sweep()
        assert swept == ([] if whole else ["g"])
        # An empty directory may go as well; what a finished guest has must stay.
        assert place.exists() or not whole


def test_the_record_of_a_guest_is_read_as_it_was_written() -> None:
    facts = FACTS.to_json()
    line = {
        "name": "web01",
        "uuid": "u",
        "golden": "/golden",
        "golden_sha256": "0" * 64,
        "size": 1 << 30,
        "files": {"disk": "/g/web01.qcow2", "config": "/g/web01.cfg"},
        "request": {"name": "web01", "ip": []},
        "facts": facts,
        "mode": "pv",
        "toolstack": "xl",
    }
    with journal("web01") as found:
        found.add("base", path="/g/.golden/0")
        found.add("complete", **line)
        record = found.record()
        assert found.bases() == [Path("/g/.golden/0")]
    assert record is not None and record.facts is not None
    assert record.to_json() == {"op": "complete", **line}
    assert (record.size_bytes, record.facts.to_json()) == (1 << 30, facts)
    with journal("copy") as other:
        other.complete(record)
        assert other.record() == record


@pytest.mark.parametrize("line", [{}, {"name": "web01", "size": -1}, {"name": "web01", "files": 1}])
def test_a_guest_whose_record_cannot_be_read_is_kept(state: Path, line: dict[str, Any]) -> None:
    with journal("web01") as found:
        found.directory(state / "web01")
        found.add("complete", **line)
        assert found.finished
        with pytest.raises(SpecError, match=r"name|size|files"):
            found.record()
    assert sweep() == []
    assert (state / "web01").is_dir()
    destroy("web01")
    assert not (state / "web01").exists()


def test_a_finished_guest_is_not_swept_and_a_busy_one_neither(state: Path) -> None:
    with journal("done") as found:
        found.directory(state / "done")
        found.add("complete", name="done", files={})
    with journal("busy") as held:
        held.directory(state / "busy")
        assert sweep() == []
        with pytest.raises(BusyError), journal("busy"):
            pass
    assert sweep() == ["busy"]
    assert (state / "done").is_dir()
    assert not (state / "busy").exists()


def test_a_directory_or_link_that_exists_is_refused_before_anything_is_written(
    state: Path,
) -> None:
    (state / "web01").mkdir()
    with journal("web01") as found:
        with pytest.raises(ExistsError):
            found.directory(state / "web01")
        with pytest.raises(ExistsError):
            found.link(state / "web01", state)
        assert found.entries() == []


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a" * 65, "a b", "x\n", "-x"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError), journal(name):
        pass
    with pytest.raises(SpecError):
        make_request({"name": name})


def test_destroying_what_is_not_there_says_so() -> None:
    with pytest.raises(SpecError, match="no guest nobody"):
        destroy("nobody")


def test_many_guests_take_the_defaults_they_do_not_override(tmp_path: Path) -> None:
    path = tmp_path / "guests.yaml"
    path.write_text(
        "defaults: {memory: 512, size: 4GiB}\nguests:\n- {name: a, ip: 192.0.2.1/24}\n"
        "- {name: b, memory: 1024}\n"
    )
    first, second = read_guests(path)
    assert (first.memory, first.size, first.ip) == (512, 4 << 30, ["192.0.2.1/24"])
    assert (second.memory, second.size, second.ip) == (1024, 4 << 30, [])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("guests: []", "guests"),
        ("guests: [{name: a}, {name: a}]", "twice"),
        ("guests: [{name: a, device: /dev/x}, {name: b, device: /dev/../dev/x}]", "one device"),
        ("guests: [{name: a, memory: lots}]", r"guests\[0\].memory"),
        ("guests: [{name: a, ip: 192.0.2.1}]", "ip"),
        ("guests: [{name: a, mac: 'x'}]", "mac"),
        ("guests: [{name: a, size: 5}]", "unit"),
        ("guests: [{name: a, nonsense: 5}]", "nonsense"),
        ("guests: {", "YAML"),
        ("- " * 3000, "YAML|guests|valid"),
    ],
)
def test_a_wrong_file_of_guests_names_the_guest_and_the_field(
    text: str, word: str, tmp_path: Path
) -> None:
    path = tmp_path / "guests.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=word):
        read_guests(path)


@given(st.lists(st.from_regex(r"\A[a-z][a-z0-9-]{0,20}\Z"), min_size=2, max_size=2, unique=True))
def test_every_guest_has_its_own_mac_and_uuid_always_the_same(names: list[str]) -> None:
    one, two = (GuestRequest(name=name) for name in names)
    assert one.mac_of(0) != two.mac_of(0)
    assert one.mac_of(0) != one.mac_of(1)
    assert one.domain_uuid != two.domain_uuid
    assert one.mac_of(0) == GuestRequest(name=names[0]).mac_of(0)
    assert re.fullmatch(r"00:16:3e:[0-7][0-9a-f](:[0-9a-f]{2}){2}", one.mac_of(0))


def facts() -> BuildFacts:
    yes = Verdict(True)
    return BuildFacts(
        name="golden",
        uuid="11111111-2222-3333-4444-555555555555",
        memory_mib=1024,
        vcpus=1,
        disks=(DiskFacts({"raw": "/golden.raw"}, 1 << 30),),
        pv=yes,
        pvh=yes,
        hvm=yes,
        pygrub=PygrubView(True, "grub.cfg"),
        maxmem_mib=2048,
        nics=(Nic("00:16:3e:00:00:01", "xenbr0", ("192.0.2.1",)), Nic("00:16:3e:00:00:02")),
        cmdline="root=UUID=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee ro",
    )


def test_a_guests_facts_are_its_own_and_the_rest_the_golden_images() -> None:
    request = make_request({"name": "web", "memory": 4096, "ip": "192.0.2.7/24", "bridge": "br7"})
    made = guest_facts(
        facts(),
        request,
        disk="/g/web.qcow2",
        image_format="qcow2",
        size=2 << 30,
        kernel="/g/vmlinuz",
        initrd=None,
        seed="/g/seed.iso",
    )
    assert (made.memory_mib, made.maxmem_mib, made.vcpus) == (4096, 4096, 1)
    assert [d.vdev for d in made.disks] == ["xvda", "xvdb"]
    assert made.disks[1].readonly
    assert (made.nics[0].bridge, made.nics[0].ips) == ("br7", ("192.0.2.7",))
    assert {n.mac for n in made.nics}.isdisjoint({n.mac for n in facts().nics})
    assert made.cmdline == facts().cmdline
    assert root_uuid(made) == "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


def test_clones_do_not_shrink() -> None:
    with pytest.raises(SpecError, match="do not shrink"):
        check_size(1 << 30, 2 << 30)
    with pytest.raises(SpecError, match="whole number of MiB"):
        check_size((1 << 30) + 512, 1 << 30)
    check_size(1 << 30, 1 << 30)


def test_the_network_of_a_guest_matches_by_mac_however_it_is_told() -> None:
    request = make_request(
        {"name": "w", "ip": ["192.0.2.7/24", "2001:db8::7/64"], "gateway": "192.0.2.1"}
    )
    first, second = (network_file(vif) for vif in vifs_of(request, 2))
    config = json.loads(json.dumps(network_config(request, 2)))["ethernets"]
    assert f"MACAddress={config['vif0']['match']['macaddress']}" in first
    for address in config["vif0"]["addresses"]:
        assert f"Address={address}" in first
    assert config["vif1"]["dhcp4"] is True
    assert "DHCP=yes" in second


def test_the_journal_is_nobody_elses_business(state: Path) -> None:
    with journal("web01") as found:
        found.directory(state / "web01")
    assert found.path.stat().st_mode & 0o077 == 0
    assert (state / "web01").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("device", [r"/dev/\0", r"/dev/vg0/a\x01", r"/dev/a\nb", r"\ud800"])
def test_a_device_that_no_kernel_can_open_is_refused(tmp_path: Path, device: str) -> None:
    path = tmp_path / "guests.yaml"
    path.write_text(f'guests:\n- {{name: a}}\n- {{name: b, device: "{device}"}}\n')
    with pytest.raises(SpecError) as caught:
        read_guests(path)
    assert "device" in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()
