"""Imports into a small XAPI on loopback that checks the calls and the bytes."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from oracles import fake_xapi
from oracles.domain_facts import facts_for

from imagekit.disk.vhd import write_vhd
from imagekit.domain import model
from imagekit.domain.facts import BuildFacts, DiskFacts
from imagekit.errors import DownloadError, HostError, SpecError, ToolError
from imagekit.toolstacks.xapi import session as xapi_session
from imagekit.toolstacks.xapi import upload as xapi_upload
from imagekit.toolstacks.xapi.importing import import_into, import_xva
from imagekit.toolstacks.xapi.session import Pool

MIB = 1 << 20
UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
pytestmark = pytest.mark.skipif(
    find_spec("XenAPI") is None, reason="the Python package XenAPI is not installed"
)


def pool(fake: fake_xapi.FakeXapi, **changes: Any) -> Pool:
    values: dict[str, Any] = {"password": "secret", "timeout": 5.0, "task_timeout": 5.0}
    return Pool(fake.url, "root", **(values | changes))


@pytest.fixture
def built(tmp_path: Path) -> tuple[model.Domain, BuildFacts]:
    """A guest of a VHD and a raw disk."""
    raw, second, vhd = tmp_path / "a.raw", tmp_path / "b.raw", tmp_path / "a.vhd"
    for path, size in ((raw, 6 * MIB), (second, 5 * MIB + 512)):
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(3 * MIB + 7)
            file.write(b"content of " + path.name.encode())
    write_vhd(raw, vhd)
    domain = model.Domain(
        "web1",
        UUID,
        "pv",
        512,
        2,
        model.Pygrub(),
        (model.Disk(str(raw)), model.Disk(str(second), vdev="xvdb", readonly=True)),
        (
            model.Nic("00:16:3e:10:20:30", "xenbr0", rate=model.Rate.parse("10Mb/s")),
            model.Nic("00:16:3e:10:20:31", "xenbr1", ips=("192.0.2.7",)),
        ),
        maxmem_mib=1024,
    )
    disks = (
        DiskFacts({"raw": str(raw), "vhd": str(vhd)}, 6 * MIB),
        DiskFacts({"raw": str(second)}, 5 * MIB + 512, "xvdb"),
    )
    return domain, dataclasses.replace(facts_for(domain), disks=disks)


Built = tuple[model.Domain, BuildFacts]


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_vm_is_made_with_its_disks_content_and_nics(built: Built) -> None:
    domain, facts = built
    with fake_xapi.running() as fake:
        identity = import_into(pool(fake), domain, facts)
    (vm,) = fake.of("VM")
    assert identity == vm["uuid"]
    assert (vm["name_label"], vm["PV_bootloader"]) == ("web1", "pygrub")
    assert (vm["memory_dynamic_max"], vm["memory_static_max"]) == (str(512 * MIB), str(1024 * MIB))
    assert [v["virtual_size"] for v in fake.of("VDI")] == [str(6 * MIB), str(6 * MIB)]
    assert {v["SR"] for v in fake.of("VDI")} == {"OpaqueRef:sr"}
    vbds = fake.of("VBD")
    assert [(v["userdevice"], v["bootable"], v["mode"]) for v in vbds] == [
        ("0", True, "RW"),
        ("1", False, "RO"),
    ]
    first, second = (fake.uploads[vbd["VDI"]] for vbd in vbds)
    assert (first[0], first[2]["format"]) == (digest(facts.disks[0].paths["vhd"]), "vhd")
    assert (second[0], second[2]["format"]) == (digest(facts.disks[1].paths["raw"]), "raw")
    assert second[1] == 5 * MIB + 512
    vifs = fake.of("VIF")
    assert [(v["MAC"], v["network"]) for v in vifs] == [
        ("00:16:3e:10:20:30", "OpaqueRef:net"),
        ("00:16:3e:10:20:31", "OpaqueRef:net2"),
    ]
    assert vifs[0]["qos_algorithm_params"] == {"kbps": "1221", "timeslice_us": "50000"}
    assert vifs[1]["ipv4_allowed"] == ["192.0.2.7"]
    assert not fake.sessions and not fake.of("task")


def test_storage_and_networks_are_chosen_by_uuid_or_name(built: Built) -> None:
    domain, facts = built
    with fake_xapi.running() as fake:
        import_into(pool(fake), domain, facts, sr="Fast", networks={"xenbr0": "DMZ"})
        assert {v["SR"] for v in fake.of("VDI")} == {"OpaqueRef:sr2"}
        assert fake.of("VIF")[0]["network"] == "OpaqueRef:net2"
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"sr": "nosuch"}, "sr"),
            ({"networks": {"xenbr0": "x"}}, "networks"),
        ]
        for options, where in wrong:
            with pytest.raises(SpecError) as caught:
                import_into(pool(fake), domain, facts, **options)
            assert caught.value.where == where and "there is" in str(caught.value.hint)
        assert len(fake.of("VM")) == 1


@pytest.mark.parametrize(
    "quirks",
    [
        {"refuse": ("VIF.create",)},
        {"refuse": ("VBD.create",)},
        {"put_status": 500},
        {"hang_up": True},
        {"bad_task": True},
    ],
)
def test_a_failed_import_leaves_nothing_behind(built: Built, quirks: dict[str, Any]) -> None:
    domain, facts = built
    with fake_xapi.running(**quirks) as fake, pytest.raises((ToolError, DownloadError)) as caught:
        import_into(pool(fake, task_timeout=0.3), domain, facts)
    assert not fake.of("VM") and not fake.of("VDI") and not fake.of("task") and not fake.sessions
    assert caught.value.where and caught.value.where.startswith(fake.url)
    if "put_status" in quirks:
        assert "the storage is away" in str(caught.value)
    if "bad_task" in quirks:
        assert "disk full" in str(caught.value)


def test_what_cannot_be_removed_is_named(built: Built) -> None:
    domain, facts = built
    refuse = ("VIF.create", "VM.destroy")
    with fake_xapi.running(refuse=refuse) as fake, pytest.raises(ToolError) as caught:
        import_into(pool(fake), domain, facts)
    assert "still in the pool" in str(caught.value.hint) and len(fake.of("VM")) == 1


def test_an_upload_follows_the_host_that_has_the_storage(built: Built) -> None:
    domain, facts = built
    with fake_xapi.running() as other, fake_xapi.running(redirect=other.url) as fake:
        other.objects, other.sessions = fake.objects, fake.sessions
        import_into(pool(fake), domain, facts)
    assert len(other.uploads) == 1 and len(fake.uploads) == 1


@pytest.mark.parametrize("target", ["https://127.0.0.1:1/import", "ftp://192.0.2.1/", "SELF"])
def test_redirections_in_circles_or_to_another_protocol_are_refused(
    built: Built, target: str
) -> None:
    domain, facts = built
    with fake_xapi.running(redirect_for_ever=True) as fake:
        fake.quirks["redirect"] = fake.url if target == "SELF" else target
        with pytest.raises(DownloadError, match="redirects"):
            import_into(pool(fake), domain, facts)
    assert not fake.of("VM")


def test_a_server_that_answers_after_the_body_is_understood(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xapi_upload, "EARLY_ANSWER_SECONDS", 0.1)
    domain, facts = built
    with fake_xapi.running(late_answer=True) as fake:
        import_into(pool(fake), domain, facts)
    assert len(fake.uploads) == 2


def test_login_errors_say_what_to_do() -> None:
    domain = model.Domain("web1", UUID, "hvm", 512, 1, model.Firmware())
    with fake_xapi.running(slave=True) as fake, pytest.raises(ToolError) as caught:
        import_into(pool(fake), domain, facts_for(domain))
    assert "https://192.0.2.9" in str(caught.value.hint)
    with fake_xapi.running() as fake, pytest.raises(ToolError) as caught:
        import_into(pool(fake, password="geheim"), domain, facts_for(domain))
    assert "password" in str(caught.value.hint) and "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>hello</html>",
        b"<?xml version='1.0'?><methodResponse><params><param><value><string>x</string></value>"
        b"</param></params></methodResponse>",
        b"<?xml version='1.0'?><methodResponse><params><param><value><struct><member><name>Status"
        b"</name><value>Failure</value></member><member><name>ErrorDescription</name><value><array>"
        b"<data></data></array></value></member></struct></value></param></params></methodResponse>",
        b"\xff\xfe\x00",
    ],
)
def test_nonsense_from_the_server_is_an_error_for_users(answer: bytes) -> None:
    domain = model.Domain("web1", UUID, "hvm", 512, 1, model.Firmware())
    with fake_xapi.running(raw_answer=answer) as fake, pytest.raises((DownloadError, ToolError)):
        import_into(pool(fake), domain, facts_for(domain))


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xapi_session, "MAX_ANSWER_BYTES", 1000)
    domain = model.Domain("web1", UUID, "hvm", 512, 1, model.Firmware())
    with fake_xapi.running(raw_answer=b" " * 2000) as fake, pytest.raises(DownloadError):
        import_into(pool(fake), domain, facts_for(domain))


def test_a_server_that_is_away_is_named() -> None:
    domain = model.Domain("web1", UUID, "hvm", 512, 1, model.Firmware())
    with fake_xapi.running() as fake:
        gone = pool(fake)
    with pytest.raises(DownloadError, match="login"):
        import_into(gone, domain, facts_for(domain))


def test_an_xva_is_uploaded_whole(tmp_path: Path) -> None:
    xva = tmp_path / "a.xva"
    xva.write_bytes(b"not really an XVA" * 100_000)
    with fake_xapi.running() as fake:
        (identity,) = import_xva(pool(fake), xva, sr="uuid-sr2")
    assert identity.startswith("uuid-OpaqueRef:vm")
    assert fake.uploads["xva"][0] == digest(str(xva))
    assert fake.uploads["xva"][2]["sr_uuid"] == "uuid-sr2"


@pytest.mark.parametrize(
    "url",
    ["http://xen1.example.org", "xen1", "ftp://x", "https://", "https://u:p@x/", "http://[::"],
)
def test_urls_that_would_leak_the_password_or_mean_nothing_are_refused(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        Pool(url, "root", "secret")
    assert caught.value.where == "url"
    assert "secret" not in repr(Pool("https://xen1", "root", "secret"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *(
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=xen1",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ),
            *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


def test_https_checks_the_certificate_unless_told_otherwise(
    built: Built, certificate: Path
) -> None:
    domain, facts = built
    with fake_xapi.running(certificate) as fake:
        with pytest.raises(DownloadError) as caught:
            import_into(pool(fake), domain, facts)
        assert "--cafile" in str(caught.value.hint)
        import_into(pool(fake, cafile=certificate.with_suffix(".crt")), domain, facts)
        import_into(pool(fake, insecure=True), domain, facts)
    assert len(fake.of("VM")) == 2
    with pytest.raises(HostError, match="certificates"):
        import_into(pool(fake, cafile=certificate.with_name("none")), domain, facts)


def test_without_the_package_the_error_names_it(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "XenAPI":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HostError) as caught:
        import_into(Pool("https://xen1", "root", "secret"), *built)
    assert caught.value.hint == "pip install XenAPI"
