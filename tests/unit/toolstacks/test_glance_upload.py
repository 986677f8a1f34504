"""Uploads through the real openstacksdk into a small Glance on loopback."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from oracles import fake_glance
from oracles.domain_facts import facts_for
from oracles.manifests import below, write_manifest

from imagekit.disk.vhd import write_vhd
from imagekit.domain import model
from imagekit.domain.facts import BuildFacts
from imagekit.errors import (
    DownloadError,
    ExistsError,
    HostError,
    ImagekitError,
    SpecError,
    ToolError,
)
from imagekit.toolstacks.glance.emitter import Options
from imagekit.toolstacks.glance.upload import upload

UUID = "5f0c7f5e-3a77-4f0b-9a0e-2f6d6f2b4d11"
needs_sdk = pytest.mark.skipif(
    find_spec("openstack") is None, reason="the Python package openstacksdk is not installed"
)


@pytest.fixture
def cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[fake_glance.FakeGlance], str]:
    """Enters a Glance into clouds.yaml, and gives the entry's name."""

    def enter(fake: fake_glance.FakeGlance) -> str:
        path = tmp_path / "clouds.yaml"
        path.write_text(
            f"clouds:\n  test:\n    auth_type: none\n    image_api_version: '2'\n"
            f"    image_endpoint_override: {fake.url}/v2\n    auth: {{endpoint: '{fake.url}'}}\n"
        )
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
        return "test"

    return enter


Enter = Callable[[fake_glance.FakeGlance], str]


@pytest.fixture
def ami(tmp_path: Path) -> tuple[model.Domain, BuildFacts]:
    """A guest of a kernel, an initrd and a raw disk."""
    for name in ("kernel", "initrd", "disk"):
        (tmp_path / name).write_bytes(name.encode() * 5000)
    boot = model.DirectKernel(str(tmp_path / "kernel"), str(tmp_path / "initrd"), "root=/dev/xvda")
    disks = (model.Disk(str(tmp_path / "disk")),)
    domain = model.Domain("web1", UUID, "pv", 512, 1, boot, disks)
    return domain, facts_for(domain)


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@needs_sdk
def test_images_arrive_with_their_bytes_and_properties(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts]
) -> None:
    domain, facts = ami
    with fake_glance.running() as fake:
        ids = upload(domain, facts, Options(ami=True), cloud=cloud(fake))
    assert list(ids) == ["kernel", "initrd", "disk0"]
    boot = domain.boot
    assert isinstance(boot, model.DirectKernel) and boot.initrd
    for role, path in (
        ("kernel", boot.kernel),
        ("initrd", boot.initrd),
        ("disk0", domain.disks[0].target),
    ):
        assert path is not None
        assert fake.uploads[ids[role]] == (digest(path), Path(path).stat().st_size)
    disk = fake.images[ids["disk0"]]
    assert (disk["name"], disk["disk_format"], disk["container_format"]) == ("web1", "ami", "ami")
    assert (disk["kernel_id"], disk["ramdisk_id"]) == (ids["kernel"], ids["initrd"])
    assert (disk["vm_mode"], disk["hw_vm_mode"], disk["min_ram"]) == ("xen", "xen", 512)
    assert disk["os_command_line"] == "root=/dev/xvda"


@needs_sdk
def test_a_tarball_is_made_uploaded_and_removed(cloud: Enter, tmp_path: Path) -> None:
    raw, vhd, work = tmp_path / "a.raw", tmp_path / "a.vhd", tmp_path / "work"
    raw.write_bytes(b"x" * 4096)
    write_vhd(raw, vhd)
    work.mkdir()
    disks = (model.Disk(str(vhd), "vhd"),)
    domain = model.Domain("web1", UUID, "pv", 512, 1, model.Pygrub(), disks)
    with fake_glance.running() as fake:
        options = Options(target="nova-xenapi")
        ids = upload(domain, facts_for(domain), options, cloud=cloud(fake), workdir=work)
    assert fake.images[ids["disk0"]]["container_format"] == "ovf"
    assert 0 < fake.uploads[ids["disk0"]][1] < vhd.stat().st_size
    assert list(work.iterdir()) == []


@needs_sdk
def test_a_failed_upload_deletes_what_came_before(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts]
) -> None:
    with fake_glance.running(refuse_upload="ami") as fake, pytest.raises(ToolError) as caught:
        upload(*ami, Options(ami=True), cloud=cloud(fake))
    assert fake.images == {} and caught.value.hint


@needs_sdk
def test_a_taken_name_is_refused_before_anything_is_made(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts]
) -> None:
    with fake_glance.running() as fake:
        fake.images["1"] = {"id": "1", "name": "web1", "status": "active"}
        with pytest.raises(ExistsError):
            upload(*ami, Options(ami=True), cloud=cloud(fake))
    assert set(fake.images) == {"1"}


@needs_sdk
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_upload_leaves_nothing_and_the_second_try_works(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts], tmp_path: Path, number: int
) -> None:
    build = written(ami[1], tmp_path)
    with fake_glance.running(stall=True) as fake:
        with uploading(build, cloud(fake)) as child:
            assert fake.uploading.wait(60)
            child.send_signal(number)
            _, stderr = child.communicate(timeout=60)
        assert (child.returncode, fake.images) == (128 + number, {}), stderr
        assert "interrupted; everything was released" in stderr
        fake.stall = False
        with uploading(build, "test") as child:
            stdout, stderr = child.communicate(timeout=60)
        assert child.returncode == 0, stderr
        assert stdout.startswith("disk0 ") and len(fake.uploads) == 1


@needs_sdk
def test_a_signal_names_an_image_that_could_not_be_deleted(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts], tmp_path: Path
) -> None:
    build = written(ami[1], tmp_path)
    with fake_glance.running(stall=True, keep=True) as fake:
        with uploading(build, cloud(fake)) as child:
            assert fake.uploading.wait(60)
            child.terminate()
            _, stderr = child.communicate(timeout=60)
        (identity,) = fake.images
    assert child.returncode == 143 and "released" not in stderr
    assert f"openstack --os-cloud test image delete {identity}" in stderr


@needs_sdk
def test_a_glance_that_dies_leaves_what_the_error_and_the_next_try_name(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts]
) -> None:
    domain, facts = ami
    with fake_glance.running(vanish=True) as fake:
        with pytest.raises(ImagekitError) as caught:
            upload(domain, facts, Options(ami=True), cloud=cloud(fake))
        (identity,) = fake.images
        assert any(f"image delete {identity}" in note for note in caught.value.__notes__)
        fake.gone = fake.vanish = False
        with pytest.raises(ExistsError, match="upload never ended") as again:
            upload(domain, facts, Options(ami=True), cloud="test")
        assert f"openstack --os-cloud test image delete {identity}" in str(again.value.hint)
        del fake.images[identity]
        assert len(upload(domain, facts, Options(ami=True), cloud="test")) == 3


@needs_sdk
def test_what_glance_did_not_get_whole_is_deleted(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fake_glance._Handler._body
    monkeypatch.setattr(fake_glance._Handler, "_body", lambda self: whole(self)[:-1])
    with fake_glance.running() as fake, pytest.raises(ToolError, match="whole file"):
        upload(*ami, Options(ami=True), cloud=cloud(fake))
    assert fake.images == {}


def written(facts: BuildFacts, tmp_path: Path) -> Path:
    """A build directory of ``facts``, whose disk the command line uploads."""
    write_manifest(tmp_path, below(tmp_path, facts))
    return tmp_path


@contextmanager
def uploading(build: Path, cloud: str) -> Iterator[subprocess.Popen[str]]:
    words: list[str | Path] = [
        sys.executable,
        "-m",
        "imagekit",
        "config",
        build,
        "--toolstack",
        "glance",
    ]
    with subprocess.Popen(
        [*words, "--upload", "--cloud", cloud],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


@needs_sdk
def test_errors_name_the_cloud_the_file_and_the_service(
    cloud: Enter, ami: tuple[model.Domain, BuildFacts]
) -> None:
    domain, facts = ami
    with fake_glance.running(status=403) as fake:
        name = cloud(fake)
        with pytest.raises(DownloadError, match="cannot be reached"):
            upload(domain, facts, Options(), cloud=name)
        with pytest.raises(SpecError) as caught:
            upload(domain, facts, Options(), cloud="nosuch")
        assert caught.value.where == "cloud"
    with pytest.raises(DownloadError, match="cannot be reached"):
        upload(domain, facts, Options(), cloud=name)
    gone = dataclasses.replace(
        domain, disks=(model.Disk("/nonexistent/disk"),), boot=model.Pygrub()
    )
    with fake_glance.running() as fake, pytest.raises(SpecError, match="/nonexistent/disk"):
        upload(gone, facts_for(gone), Options(), cloud=cloud(fake))


@needs_sdk
@pytest.mark.parametrize(
    ("method", "status", "said", "what", "hint"),
    [
        ("POST", 401, "Please authenticate", "credentials", "openstack token issue"),
        ("POST", 403, "You are not authorized", "forbids", "role"),
        ("PUT", 409, "conflict", "somebody else", "try again"),
        ("PUT", 410, "Image could not be found after upload", "deleted", "try again"),
        ("PUT", 413, "The incoming image is too large", "larger", "image_size_cap"),
        ("PUT", 413, "Image exceeds the storage quota: 1", "quota", "user_storage_quota"),
        ("PUT", 413, "Image storage media is full: There is not enough", "full", "make room"),
        ("PUT", 503, "Insufficient permissions on image storage media", "write", "log"),
        ("PUT", 500, "Internal Server Error", "refused", "log"),
    ],
)
def test_what_glance_says_is_told_apart(
    cloud: Enter,
    ami: tuple[model.Domain, BuildFacts],
    method: str,
    status: int,
    said: str,
    what: str,
    hint: str,
) -> None:
    with (
        fake_glance.running(answers={method: (status, said)}) as fake,
        pytest.raises(ToolError) as caught,
    ):
        upload(*ami, Options(ami=True), cloud=cloud(fake))
    assert what in caught.value.what and hint in str(caught.value.hint)
    assert said in str(caught.value) and fake.images == {}
    assert not hasattr(caught.value, "__notes__")


@needs_sdk
def test_a_keystone_that_refuses_and_one_that_is_not_there_are_told_apart(
    ami: tuple[model.Domain, BuildFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_glance.running(answers={"POST": (401, "The request requires auth")}) as fake:
        (tmp_path / "clouds.yaml").write_text(
            f"clouds:\n  test:\n    auth: {{auth_url: '{fake.url}/v3', username: u, password: p,\n"
            "      project_name: p, user_domain_id: default, project_domain_id: default}\n"
        )
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
        with pytest.raises(ToolError, match="credentials"):
            upload(*ami, Options(ami=True), cloud="test")
    with pytest.raises(DownloadError, match="nothing listens") as caught:
        upload(*ami, Options(ami=True), cloud="test")
    assert "is the service up" in str(caught.value.hint)


@needs_sdk
def test_a_tgz_is_refused_with_the_setting_that_glance_lacks(cloud: Enter, tmp_path: Path) -> None:
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"x" * 4096)
    domain = model.Domain("web1", UUID, "pv", 512, 1, model.Pygrub(), (model.Disk(str(raw)),))
    options = Options(target="nova-xenapi", handler="vdi_local_dev")
    with fake_glance.running() as fake:
        with pytest.raises(ToolError, match="container_format tgz") as caught:
            upload(domain, facts_for(domain), options, cloud=cloud(fake))
        assert "container_formats in the section [image_format]" in str(caught.value.hint)
        fake.container_formats += ("tgz",)
        assert upload(domain, facts_for(domain), options, cloud="test")


def test_without_the_package_the_error_names_it(
    ami: tuple[model.Domain, BuildFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openstack":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HostError) as caught:
        upload(*ami, Options())
    assert caught.value.hint == "pip install openstacksdk"
