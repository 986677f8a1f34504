"""The Xens of the lab: registry, option, spec field, their lanes and the matrix of the report."""

from __future__ import annotations

import contextlib
import lzma
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from oracles.labs import lab_tools
from pydantic import ValidationError
from typer.testing import CliRunner

from imagekit.cli import prove as command
from imagekit.cli.main import make_app
from imagekit.errors import DownloadError, InconclusiveError, SpecError, ToolError
from imagekit.installs.mirrors import Mirrors, still_there
from imagekit.pipeline.events import Events
from imagekit.proof import labimage, lablanes, prove
from imagekit.proof.boots import Trial, under_each
from imagekit.proof.console import expectation
from imagekit.proof.lab import lab_plan
from imagekit.proof.machine import Shape
from imagekit.proof.outcome import require_up
from imagekit.proof.report import Boot, Failure, Outcome, ProofReport, table
from imagekit.proof.session import Rules
from imagekit.proof.xens import DEFAULT_XEN, LABS, XENS, named
from imagekit.proof.xlcfg import parse_config
from imagekit.spec.load import load_spec
from imagekit.spec.model import Proof, XenVersion


def test_there_is_one_lab_for_each_xen_that_a_spec_may_name() -> None:
    assert tuple(XENS) == get_args(XenVersion)
    assert sorted(path.name for path in LABS.iterdir()) == [f"xen-{v}.yaml" for v in XENS]
    assert Proof().xen == [DEFAULT_XEN]


@pytest.mark.parametrize(
    ("version", "suite"), [("4.14", "bullseye"), ("4.17", "bookworm"), ("4.20", "trixie")]
)
def test_a_lab_is_made_of_the_release_that_has_its_xen(version: str, suite: str) -> None:
    spec = load_spec(XENS[version].spec).spec
    assert spec.os.suite == suite
    packages = spec.debootstrap.packages
    assert {f"xen-hypervisor-{version}-amd64", f"xen-utils-{version}"} <= set(packages)


def test_labs_of_different_xens_share_nothing_in_the_store() -> None:
    plans = [lab_plan(xen, xen.shape(3072), lab_tools(), state=True) for xen in XENS.values()]
    for artefact in ("rootfs.tar", "dom0.img", "state"):
        assert len({plan.maker(artefact).key for plan in plans}) == len(XENS)


def test_the_machine_of_a_xen_has_its_command_lines() -> None:
    assert XENS[DEFAULT_XEN].shape(4096) == Shape(memory_mib=4096)
    argv = XENS["4.20"].shape(3072).argv(Path("/disk"))
    assert "xsave=0" in argv[argv.index("-append") + 1].split()


def test_xens_are_taken_once_and_unknown_ones_refused() -> None:
    assert [xen.version for xen in named(["4.20", "4.14", "4.20"], "--xen")] == ["4.20", "4.14"]
    assert [xen.version for xen in named([], "--xen")] == [DEFAULT_XEN]
    with pytest.raises(SpecError) as error:
        named(["4.2"], "--xen")
    assert error.value.what == "there is no lab with Xen 4.2"
    assert error.value.where == "--xen"
    assert error.value.hint == "one of 4.14, 4.17, 4.20"


@pytest.mark.parametrize(
    ("value", "meant"),
    [("[4.20]", ["4.20"]), ("[4.14, '4.20']", ["4.14", "4.20"]), ('["4.17"]', ["4.17"])],
)
def test_a_spec_names_xens_bare_or_quoted(tmp_path: Path, value: str, meant: list[str]) -> None:
    path = tmp_path / "guest.yaml"
    path.write_text(
        "name: g\nos: {suite: bookworm}\ninstall: {method: debootstrap}\n"
        f"proof: {{xen: {value}}}\n"
    )
    assert load_spec(path).spec.proof.xen == meant


@pytest.mark.parametrize("value", [[], ["4.17", "4.17"], ["4.13"], [4], "4.17"])
def test_a_spec_with_other_xens_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        Proof.model_validate({"xen": value})


def trial(ident: str, mode: str = "pv", name: str = "web") -> Trial:
    text = f'name = "{name}"\ntype = "{mode}"\n'
    return Trial(ident, parse_config(text.encode(), Path(f"/b/web.{mode}.cfg")))


def test_only_with_several_xens_does_a_boot_say_which_one_in_its_name() -> None:
    trials = [trial("web-pv"), trial("web-pvh", "pvh")]
    one = under_each(trials, ["4.20"])
    assert [(t.ident, t.xen) for t in one] == [("web-pv", "4.20"), ("web-pvh", "4.20")]
    assert [(t.ident, t.xen) for t in under_each(trials, ["4.14", "4.20"])] == [
        ("web-pv-xen-4.14", "4.14"),
        ("web-pv-xen-4.20", "4.20"),
        ("web-pvh-xen-4.14", "4.14"),
        ("web-pvh-xen-4.20", "4.20"),
    ]


class FakeSession:
    def __init__(self, xen: str) -> None:
        self.xen = xen

    def run(self, trial: Trial, number: int, rules: Rules) -> tuple[str, Trial]:
        if trial.config.name == "killer":
            raise ToolError("the lab ended while it ran a guest", output="(XEN) hm\nassertion\n\n")
        return self.xen, trial


class FakeLab:
    """Counts how often it was started."""

    def __init__(self, xen: str, suffix: str) -> None:
        self.xen, self.suffix = xen, suffix
        self.starts = 0

    @contextlib.contextmanager
    def awake(self, queue: object, events: Events, log_to: Path | None) -> Iterator[FakeSession]:
        self.starts += 1
        yield FakeSession(self.xen)

    def stop(self) -> None:
        raise AssertionError("nothing is to be stopped")


def lanes_of(labs: dict[str, FakeLab], out: Path, seconds: dict[str, float]) -> lablanes.LabLanes:
    rules = Rules(expectation(None))
    ours = cast("dict[str, lablanes.StartableLab]", labs)
    return lablanes.LabLanes(ours, out, Events([]), rules, seconds, keep=False)


def test_each_boot_runs_in_the_lab_of_its_xen_hvm_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []

    def boot_of(seen: tuple[str, Trial], out: Path) -> Boot:
        xen, trial = seen
        ran.append((xen, trial.ident))
        return boot(trial.xen, ident=trial.ident)

    monkeypatch.setattr(lablanes, "boot_of", boot_of)
    versions = ["4.14", "4.20"]
    labs = {version: FakeLab(version, f"-{version}") for version in versions}
    trials = under_each([trial("pv"), trial("pvh", "pvh"), trial("hvm", "hvm")], versions)
    seconds: dict[str, float] = {}
    lanes = lanes_of(labs, tmp_path / "out", seconds)
    assert set(lanes.prove(trials, 1)) == {trial.ident for trial in trials}
    assert ran == [
        ("4.14", "hvm-xen-4.14"),
        ("4.20", "hvm-xen-4.20"),
        ("4.14", "pv-xen-4.14"),
        ("4.14", "pvh-xen-4.14"),
        ("4.20", "pv-xen-4.20"),
        ("4.20", "pvh-xen-4.20"),
    ]
    assert {xen: fake.starts for xen, fake in labs.items()} == {"4.14": 2, "4.20": 2}
    assert {"lab start-4.14", "lab start-4.20", "all guests"} <= set(seconds)


@pytest.mark.parametrize("count", [1, 2])
def test_a_lab_that_ends_takes_no_other_guests_result_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(lablanes, "boot_of", lambda seen, out: boot(seen[0], ident=seen[1].ident))
    labs = {"4.14": FakeLab("4.14", "")}
    trials = under_each([trial("a"), trial("killer", name="killer"), trial("b")], ["4.14"])
    boots = lanes_of(labs, tmp_path / "out", {}).prove(trials, count)
    assert {ident: found.outcome for ident, found in boots.items()} == {
        "a": Outcome.UP,
        "killer": Outcome.INCONCLUSIVE,
        "b": Outcome.UP,
    }
    failure = boots["killer"].failure
    assert failure is not None
    assert (failure.cause, failure.evidence) == ("lab-lost", "assertion")
    assert labs["4.14"].starts >= 2
    report = ProofReport("xen", tuple(boots.values()), {})
    assert "inconclusive (lab-lost)" in table(report)
    with pytest.raises(InconclusiveError, match="1 of 3 boots are inconclusive; killer: the lab"):
        require_up(report)


def boot(xen: str, **changes: Any) -> Boot:
    values = {"ident": f"web-pv-{xen}", "name": "web", "mode": "pv", "boot": "pygrub"}
    values |= {
        "format": "raw",
        "config": "/b/web.cfg",
        "config_sha256": "0" * 64,
        "outcome": Outcome.UP,
    }
    return Boot(**{**values, "xen": xen, "seconds": 61.4, **changes})


def test_the_report_of_several_xens_is_a_matrix() -> None:
    failure = Failure("no-blkfront", "no driver")
    boots = (
        boot("4.14"),
        boot("4.20", outcome=Outcome.FAILED, seconds=None, failure=failure),
        boot("4.14", mode="pvh", boot="direct", seconds=70.0),
    )
    rows = [line.split() for line in table(ProofReport("xen", boots, {})).splitlines()]
    assert rows[0] == ["guest", "mode", "boot", "disk", "Xen", "4.14", "Xen", "4.20"]
    assert rows[1] == ["web", "pv", "pygrub", "raw", "up", "61", "s", "no-blkfront"]
    assert rows[2] == ["web", "pvh", "direct", "raw", "up", "70", "s", "-"]


def test_the_report_of_one_xen_keeps_its_lines() -> None:
    report = ProofReport("xen", (boot("4.20"),), {})
    assert table(report).splitlines()[0].split()[4:] == [
        *("result", "seconds", "inside", "disks", "nics")
    ]
    assert report.to_json()["boots"][0]["xen"] == "4.20"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--xen", "4.18"], "there is no lab with Xen 4.18"),
        (["--xen", "4.20", "--under", "qemu"], "--xen needs a Xen"),
    ],
)
def test_a_wrong_xen_is_refused_before_anything_starts(
    tmp_path: Path, words: list[str], said: str
) -> None:
    done = CliRunner().invoke(make_app(["prove"]), ["prove", str(tmp_path), *words])
    assert isinstance(done.exception, SpecError)
    assert said in done.exception.what


def test_the_option_names_the_xens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[prove.ProofOptions] = []

    def proving(build: Path, events: Events, options: prove.ProofOptions) -> ProofReport:
        asked.append(options)
        return ProofReport("xen", (boot("4.14"), boot("4.20")), {})

    monkeypatch.setattr(command, "prove_directory", proving)
    words = ["prove", str(tmp_path), "--xen", "4.14", "--xen", "4.20"]
    done = CliRunner().invoke(make_app(["prove"]), words)
    assert done.exit_code == 0, done.output
    assert [xen.version for xen in asked[0].xens] == ["4.14", "4.20"]
    assert "Xen 4.14" in done.output


@contextlib.contextmanager
def mirror(*suites: str) -> Iterator[str]:
    """A mirror that has the Release files of ``suites`` and nothing else."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            there = self.path in [f"/debian/dists/{suite}/InRelease" for suite in suites]
            self.send_response(200 if there else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/debian"
        finally:
            server.shutdown()
            thread.join()


def sources(url: str) -> Mirrors:
    names = ("bullseye", "bullseye-updates", "bullseye-security")
    return Mirrors(tuple((url, name) for name in names), ("main",), Path("/keyring"))


def test_what_a_mirror_has_dropped_of_an_old_release_is_left_out() -> None:
    with mirror("bullseye", "bullseye-security") as url:
        left = still_there(sources(url), "bullseye").sources
    assert left == ((url, "bullseye"), (url, "bullseye-security"))


def test_a_release_that_left_the_mirror_is_said_to_be_gone() -> None:
    with mirror("bookworm") as url, pytest.raises(DownloadError, match="no longer has bullseye"):
        still_there(sources(url), "bullseye")


def test_a_mirror_that_does_not_answer_keeps_its_sources() -> None:
    mirrors = sources("http://127.0.0.1:9/debian")
    assert still_there(mirrors, "bullseye") == mirrors
    assert still_there(Mirrors((), ("main",), Path("/keyring")), "bullseye").sources == ()


@pytest.mark.parametrize("packed", [bytes, lzma.compress])
def test_a_driver_is_loaded_as_elf_however_it_is_packed(
    tmp_path: Path, packed: Callable[[bytes], bytes]
) -> None:
    module = tmp_path / "loop.ko"
    module.write_bytes(packed(b"\x7fELF and so on"))
    assert labimage._plain(module) == b"\x7fELF and so on"
