"""What the lab is given for a netbooting guest: pypxeboot as one file, the tree, and refusals."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imagekit.errors import SpecError
from imagekit.netboot import publish
from imagekit.netboot.netguest import NetbootGuest
from imagekit.pipeline.events import Events
from imagekit.proof.bootserver import SERVER, check_tree, program_path, ship_tree, write_program
from imagekit.proof.prove import prove_image

MAC = "00:16:3e:10:20:36"
CONFIG = f"""name = "web1"
type = "pv"
memory = 512
bootloader = "pypxeboot"
bootloader_args = [ "--mac={MAC}" ]
disk = [ "format=raw, vdev=xvda, access=rw, target=/srv/web1.raw" ]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return published(tmp_path / "tree", f"http://{SERVER}")


def published(
    root: Path, http: str, answers: str | None = "d-i passwd/root-login boolean true\n"
) -> Path:
    root.mkdir()
    kernel = root.parent / "linux"
    kernel.write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    guest = NetbootGuest(
        "web1", MAC, kernel, args="url={answers}" if answers else "", answers=answers
    )
    publish.publish(publish.Site(root, http=http), [guest])
    return root


def test_every_file_for_clients_is_shipped_readable_and_nothing_else(
    root: Path, tmp_path: Path
) -> None:
    (root / "tftp/stranger").symlink_to("/etc/hostname")
    target = tmp_path / "www"
    ship_tree(root, target)
    files = {str(p.relative_to(target)): p for p in target.rglob("*") if not p.is_dir()}
    (config,) = [name for name in files if name.startswith("pxelinux.cfg/")]
    (answers,) = [name for name in files if name.startswith("answers/")]
    assert f"url=http://{SERVER}/{answers}" in files[config].read_text()
    assert "root-login" in files[answers].read_text()
    assert not {"state.json", "stranger"} & set(files)
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o644}


def test_a_tree_whose_files_are_said_to_be_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        check_tree(published(tmp_path / "tree", "http://192.0.2.1:8080"))
    assert SERVER in str(caught.value.hint)


def test_a_tree_without_http_is_fine_and_an_empty_folder_is_not(tmp_path: Path) -> None:
    check_tree(published(tmp_path / "tree", "", None))
    with pytest.raises(SpecError):
        check_tree(tmp_path)


def test_a_config_with_pypxeboot_is_refused_without_a_tree(tmp_path: Path) -> None:
    path = tmp_path / "web1.cfg"
    path.write_text(CONFIG)
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    with pytest.raises(SpecError) as caught:
        prove_image(path, tmp_path / "disk", tmp_path, Events())
    assert "--netboot" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("bootloader", "place"),
    [
        ("pypxeboot", "/usr/bin/pypxeboot"),
        ("/opt/xen/pypxeboot", "/opt/xen/pypxeboot"),
        ("pygrub", None),
        ("/usr/bin/pygrub", None),
        (None, None),
    ],
)
def test_the_program_is_put_where_the_config_looks_for_it(
    bootloader: str | None, place: str | None
) -> None:
    assert program_path(bootloader) == place


def test_the_one_file_is_the_whole_program_with_python_alone(tmp_path: Path) -> None:
    program = tmp_path / "there/pypxeboot"
    program.parent.mkdir()
    write_program(program)
    disk = tmp_path / "disk"
    disk.touch()
    words = [f"--mac={MAC}", "--interface=nothere0", "--dhcp=none", "--ip=192.0.2.7"]
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", program, *words, "--http=http://[::1]:9/", disk],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={},
    )
    assert done.returncode not in (0, 1), done.stderr
    assert done.stderr.startswith("pypxeboot: "), done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_program(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
