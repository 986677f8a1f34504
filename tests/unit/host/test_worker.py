"""A worker reads what it is given, and whatever takes it over can do nothing else."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import misbehaving

from imagekit.errors import CapabilityError, ImageError
from imagekit.host import worker
from imagekit.host.confinement import NOBODY
from imagekit.host.run import children_see
from imagekit.host.worker import MIB, Confined, Limits

SMALL = Limits(memory=256 * MIB, cpu_seconds=1, seconds=20.0, answer=MIB)
REFUSED = r"refused: \d+"


def asked(function: Callable[..., Any], *arguments: object, files: tuple[int, ...] = ()) -> Any:
    return Confined(function, "the file", SMALL)("name", files, *arguments)


@pytest.fixture
def given(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "given"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def works(given: int) -> bool:
    answer = asked(misbehaving.read_all, "text \udc80\0", (1, 2), files=(given,))
    return bool(answer == ("text \udc80\0", b"content", 3))


def test_arguments_files_and_results_arrive(given: int) -> None:
    assert works(given)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "/etc/shadow", "/", ".", "/proc/self/mem", "/dev/null", "/proc/1/root"]
)
def test_it_opens_nothing_by_name(name: str) -> None:
    assert asked(misbehaving.open_by_name, name).startswith("refused")


def test_it_makes_and_removes_nothing_even_where_everybody_may(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    there = tmp_path / "there"
    there.write_text("x")
    assert asked(misbehaving.make_file, str(tmp_path / "made")).startswith("refused")
    assert asked(misbehaving.remove, str(there)).startswith("refused")
    assert asked(misbehaving.list_root).startswith("refused")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_what_it_reads_it_cannot_write(given: int) -> None:
    assert asked(misbehaving.write_input, files=(given,)).startswith("refused")
    assert os.pread(given, 100, 0) == b"content"


def test_what_it_writes_is_bounded(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as stream:
        files = (stream.fileno(),)
        assert asked(misbehaving.fill, 1, files=files).startswith("refused")
        some = Confined(misbehaving.fill, "the file", SMALL).within(
            cpu_seconds=1, seconds=20.0, file_bytes=MIB
        )
        assert some("name", files, MIB) == "done"
        assert some("name", files, 1).startswith("refused")
    assert (tmp_path / "out").stat().st_size == MIB


def test_it_reaches_no_server_of_the_host() -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(f"\0imagekit-test-{os.getpid()}")
        for server in (tcp, unix):
            server.listen()
            server.setblocking(False)
        assert asked(misbehaving.connect, tcp.getsockname()[1]).startswith("refused")
        name = unix.getsockname()[1:].decode()
        assert asked(misbehaving.connect_unix, name).startswith("refused")
        for server in (tcp, unix):
            with pytest.raises(BlockingIOError):
                server.accept()


def test_it_makes_no_process_and_becomes_no_program() -> None:
    assert asked(misbehaving.fork).startswith("refused")
    assert asked(misbehaving.execute).startswith("refused")


def test_it_signals_nobody() -> None:
    for pid in (os.getpid(), -1, 1):
        assert asked(misbehaving.signal_all, pid).startswith("refused")


def test_it_is_nobody_and_has_no_more_than_it_was_given(given: int) -> None:
    seen = asked(misbehaving.look, files=(given,))
    missing = worker.missing_confinement(misbehaving.__name__)
    if not missing:
        assert (seen.uid, seen.names) == (NOBODY, ())
    assert len(seen.descriptors) == 3 + 3, "standard ones, arguments, answer, the file"


def test_secrets_that_other_children_see_are_not_there() -> None:
    worker.stop()
    with children_see({"SECRET_OF_A_BUNDLE": "hunter2"}):
        assert "SECRET_OF_A_BUNDLE" not in asked(misbehaving.environment)


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (misbehaving.take_memory, (1 << 30,), "needs more than 256 MiB"),
        (misbehaving.take_memory_beside, (1 << 30,), "within 256 MiB"),
        (misbehaving.crash, ("segv",), "signal 11"),
        (misbehaving.crash, ("abort",), "signal"),
        (misbehaving.crash, ("exit",), "status 7"),
        (misbehaving.turn, (), "more than 1 s of processor time"),
        (misbehaving.talk, (2 * MIB,), "description of more than 1 MiB"),
        (misbehaving.talk, (50 * MIB,), "description of more than 1 MiB"),
        (misbehaving.lie, (), "answer"),
        (misbehaving.break_down, (), "KeyError: 'surprise'"),
    ],
)
def test_a_worker_that_fails_is_an_error_about_the_file_and_the_next_one_works(
    given: int, function: Callable[..., Any], arguments: tuple[object, ...], words: str
) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        asked(function, *arguments)
    assert caught.value.where == "name"
    assert caught.value.what.startswith("the file ")
    assert "damaged or hostile" in caught.value.what
    assert caught.value.hint
    assert works(given)


def test_a_worker_that_waits_for_ever_is_ended(given: int) -> None:
    reading, writing = os.pipe()
    try:
        wait = Confined(misbehaving.wait, "the file", Limits(seconds=0.5))
        with pytest.raises(ImageError, match=r"takes more than 0 s|takes more than 1 s"):
            wait("name", [reading])
    finally:
        os.close(reading)
        os.close(writing)
    assert works(given)


def test_errors_of_imagekit_come_as_they_are_but_for_control_characters() -> None:
    with pytest.raises(CapabilityError) as caught:
        asked(misbehaving.complain, "bad\x1b[2Jnews\u202e")
    assert (caught.value.what, caught.value.where) == ("bad\\x1b[2Jnews\\u202e", "inside")
    assert caught.value.hint == "hint bad\\x1b[2Jnews\\u202e"


@contextlib.contextmanager
def little_memory(more: int) -> Iterator[None]:
    """This process may take ``more`` bytes of address space than it has, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("count", [1 << 12, 1 << 20])
def test_what_a_parser_multiplies_never_reaches_us(tmp_path: Path, count: int) -> None:
    """A file of 1 MiB that stands for gigabytes, read by a parser that does not count."""
    (tmp_path / "bomb").write_bytes(os.urandom(MIB))
    fd = os.open(tmp_path / "bomb", os.O_RDONLY)
    try:
        with little_memory(64 * MIB), pytest.raises(ImageError, match="damaged or hostile"):
            asked(misbehaving.note_bytes, count, files=(fd,))
    finally:
        os.close(fd)


def test_many_threads_ask_at_once(given: int) -> None:
    found: list[tuple[str, bytes, int]] = []

    def ask(number: int) -> None:
        for _ in range(5):
            found.append(asked(misbehaving.read_all, "a", (number,), files=(given,)))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([("a", b"content", n) for n in range(8)] * 5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_when_the_process_is_gone_another_takes_its_place(given: int, number: int) -> None:
    assert works(given)
    zygote = worker._zygotes[misbehaving.__name__]
    os.killpg(zygote._child.pid, number)
    if number == signal.SIGKILL:
        zygote._child.wait()
    else:  # it takes the request, and ends before it reads it
        threading.Timer(0.5, os.killpg, (zygote._child.pid, signal.SIGKILL)).start()
    assert works(given)


def test_a_fork_of_ours_ends_nobody_elses_worker(given: int) -> None:
    assert works(given)
    before = worker._zygotes[misbehaving.__name__]
    child = os.fork()
    if child == 0:
        try:
            worker.stop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert works(given)
    assert worker._zygotes[misbehaving.__name__] is before


def test_what_has_no_form_on_the_wire_is_our_mistake(given: int) -> None:
    with pytest.raises(TypeError, match="object does not go over the wire"):
        asked(misbehaving.read_all, object(), (), files=(given,))
