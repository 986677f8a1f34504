"""The plan of a tree: one base for all specs of a suite and kernel, and what a spec adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekit.installs import debootstrap
from imagekit.installs.context import BuildContext
from imagekit.pipeline.plan import Plan
from imagekit.spec.load import load_spec

EPOCH = 1_700_000_000


def plan_of(base: Path, name: str, *overrides: str, archive: str = "") -> Plan:
    base.mkdir(exist_ok=True)
    (base / "keys.gpg").write_bytes(b"key")
    path = base / f"{name}.yaml"
    path.write_text(
        f"name: {name}\n"
        "os: {suite: bookworm, mirror: 'http://mirror.test/debian', keyring: keys.gpg}\n"
        "install: {method: debootstrap}\n"
    )
    file = load_spec(path, list(overrides))
    return debootstrap.plan(BuildContext(file, base / "out", EPOCH, archive=archive))


def keys(plan: Plan) -> dict[str, str]:
    return {p.stage.name: p.key for p in plan.stages}


def needs(plan: Plan, stage: str) -> tuple[str, ...]:
    return next(tuple(p.stage.needs) for p in plan.stages if p.stage.name == stage)


def test_specs_share_their_base_whatever_they_add(tmp_path: Path) -> None:
    plans = [
        plan_of(tmp_path, "a"),
        plan_of(tmp_path, "b", "install.packages=[nginx-light]"),
        plan_of(tmp_path, "c", "install.packages=[nginx-light, curl]"),
        plan_of(tmp_path, "d", "disk.filesystem=xfs", "identity.locale=de_DE.UTF-8"),
    ]
    assert len({keys(plan)["rootfs"] for plan in plans}) == 1
    added = [keys(plan)["packages"] for plan in plans[1:]]
    assert len(set(added)) == 3
    assert "packages" not in keys(plans[0])
    assert needs(plans[0], "system") == ("rootfs.tar",)
    assert needs(plans[1], "system") == ("packages.tar",)


@pytest.mark.parametrize(
    "override",
    [
        "os.suite=trixie",
        "os.mirror=http://other.test/debian",
        "install.kernel=linux-image-cloud-amd64",
        "install.variant=apt",
    ],
)
def test_what_makes_another_base_makes_another_base(tmp_path: Path, override: str) -> None:
    more = "install.packages=[curl]"
    assert (
        keys(plan_of(tmp_path, "a", more))["rootfs"]
        != keys(plan_of(tmp_path, "a", more, override))["rootfs"]
    )


def test_base_and_addition_are_of_one_state_of_the_mirrors(tmp_path: Path) -> None:
    more = "install.packages=[curl]"
    one, other = (keys(plan_of(tmp_path, "a", more, archive=x)) for x in ("monday", "tuesday"))
    assert one["rootfs"] != other["rootfs"] and one["packages"] != other["packages"]


@pytest.mark.parametrize("override", ["install.tool=debootstrap", "install.packages=[systemd=1]"])
def test_what_may_not_fit_a_base_is_installed_at_once(tmp_path: Path, override: str) -> None:
    plan = plan_of(tmp_path, "a", "install.packages=[curl]", override)
    assert "packages" not in keys(plan)
    assert needs(plan, "system") == ("rootfs.tar",)


def test_list_lock_and_bill_are_those_of_all_packages(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "install.packages=[curl]")
    listed = next(t.artefact for t in plan.targets if t.role == "package-list")
    assert plan.maker(listed).stage.name == "packages"
    for stage in ("lock", "sbom"):
        makers = {plan.maker(artefact).stage.name for artefact in needs(plan, stage)}
        assert "packages" in makers and "rootfs" not in makers
