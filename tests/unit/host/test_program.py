"""Programs that read strangers' files reach these, and nothing else of the host."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support import misbehaving

from imagekit.host import worker
from imagekit.host.program import SHOWN, Bounds, confined, given
from imagekit.host.run import Completed, run

MIB = 1 << 20
PYTHON = "/usr/bin/python3"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"content\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def source(secret: Path) -> Iterator[int]:
    fd = os.open(secret, os.O_RDONLY)
    yield fd
    os.close(fd)


def start(
    argv: Sequence[str | Path],
    *,
    readable: Sequence[int] = (),
    writable: Sequence[int] = (),
    shown: Path | None = None,
    bounds: Bounds | None = None,
) -> Completed:
    command = confined(argv, readable=readable, writable=writable, shown=shown, bounds=bounds)
    return run(command, pass_fds=[*readable, *writable], check=False, timeout=60)


def shell(script: str, source: int) -> Completed:
    return start(["sh", "-c", script], readable=[source])


@pytest.fixture(scope="module")
def whole() -> None:
    missing = worker.missing_confinement(misbehaving.__name__)
    if missing:
        pytest.skip(f"missing: what confines a program here ({'; '.join(missing)})")


def test_it_reads_a_file_that_is_ours_alone(source: int) -> None:
    done = start(["cat", given(source)], readable=[source])
    assert (done.returncode, done.stdout) == (0, b"content\n")


def test_it_writes_what_it_may_write(source: int, tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        done = start(["cp", given(source), given(out)], readable=[source], writable=[out])
    finally:
        os.close(out)
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == b"content\n"


def test_a_file_without_a_name_is_reached_too(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDWR | os.O_TMPFILE, 0o600)
    try:
        os.write(fd, b"nameless")
        assert start(["cat", given(fd)], readable=[fd]).stdout == b"nameless"
    finally:
        os.close(fd)


def test_nothing_else_is_there(whole: None, source: int, secret: Path) -> None:
    script = f"cat {secret} /etc/shadow /etc/passwd; ls / /etc /root /home /var; ls /proc | grep 1"
    done = shell(script, source)
    assert b"content" not in done.stdout
    assert b"root:" not in done.stdout
    words = done.stdout.decode().split()
    assert {"etc", "proc", "usr"} <= set(words)
    assert not {"root", "home", "var", "work", "srv"} & set(words)
    assert str(os.getpid()) not in words


def test_it_writes_to_no_other_file(whole: None, source: int, secret: Path) -> None:
    done = shell(f"echo x > /usr/x; echo x > /x; echo x > {secret}", source)
    assert done.stderr.count(b"cannot create") == 3
    assert shell("echo x > /proc/sys/kernel/hostname", source).returncode != 0
    if os.geteuid() == 0:  # the files of an ordinary user stay theirs
        assert shell(f"echo x >> {given(source)}", source).returncode != 0
    assert secret.read_bytes() == b"content\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "import os; os.mknod('/tmp/a', 0o60666, os.makedev(8, 0))",
        "import socket; socket.socket()",
        "import ctypes; ctypes.CDLL(None).unshare(0x10000000) and 1/0",
        "import ctypes; ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, b'') and 1/0",
        "import os; os.setuid(0)",
        "import os; os.chroot('/tmp')",
        "import os; os.kill(OURS, 0)",
    ],
)
def test_what_leads_out_is_refused(whole: None, attempt: str) -> None:
    code = attempt.replace("OURS", str(os.getpid()))
    assert start([PYTHON, "-I", "-c", code]).returncode != 0


def test_no_server_of_the_host_is_reached(whole: None) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        assert start([PYTHON, "-I", "-c", code]).returncode != 0
        with pytest.raises(BlockingIOError):
            server.accept()


def test_memory_processor_and_files_are_bounded(tmp_path: Path) -> None:
    def python(code: str, bounds: Bounds, *writable: int) -> int:
        return start([PYTHON, "-I", "-c", code], writable=writable, bounds=bounds).returncode

    assert python("b'1' * (1 << 30)", Bounds(memory=256 * MIB)) != 0
    assert python("b'1' * (1 << 20)", Bounds(memory=256 * MIB)) == 0
    assert python("while True: pass", Bounds(cpu_seconds=1)) != 0
    with (tmp_path / "out").open("wb") as out:
        code = f"open('{given(out.fileno())}', 'wb').write(bytes(2 << 20))"
        assert python(code, Bounds(file_bytes=MIB), out.fileno()) != 0
    assert (tmp_path / "out").stat().st_size <= MIB


def test_how_it_ends_is_told() -> None:
    assert start(["sh", "-c", "exit 3"]).returncode == 3
    assert start(["sh", "-c", "kill -9 $$"]).returncode == 128 + 9


def test_a_directory_that_is_shown_is_read_only(whole: None, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    (folder / "file").write_text("shown")
    (folder / "file").chmod(0o600)
    (tmp_path / "beside").write_text("hidden")
    script = f"cat {SHOWN}/file {SHOWN}/../beside; echo x > {SHOWN}/made; echo x > {SHOWN}/file"
    done = start(["sh", "-c", script], shown=folder)
    assert done.stdout == b"shown"
    assert [p.name for p in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "shown"


def test_the_users_path_of_python_is_not_believed(tmp_path: Path) -> None:
    """Code beside the working directory is not run when the child starts."""
    (tmp_path / "json.py").write_text("raise SystemExit(42)")
    command = confined(["true"])
    assert command[0] == sys.executable
    assert run(command, cwd=tmp_path, check=False).returncode == 0
