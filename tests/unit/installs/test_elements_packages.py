"""Packages found at planning are those that diskimage-builder's own programs would install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.elements import make_element

from imagekit.errors import SpecError
from imagekit.installs.elements.catalogue import library_path, load, resolve
from imagekit.installs.elements.packages import planned_packages

ENVIRONMENT = {"DIB_DEFAULT_INSTALLTYPE": "source", "ARCH": "amd64"}


def planned(*paths: Path, **variables: str) -> list[str]:
    return planned_packages(
        [load(p, "spec") for p in paths],
        distribution="debian",
        suite="bookworm",
        arch="amd64",
        environment={**ENVIRONMENT, **variables},
    )


def squashed(directory: Path, names: list[str], variables: dict[str, str]) -> dict[str, object]:
    """What package-installs-squash makes of elements."""
    program = library_path("elements") / "package-installs/bin/package-installs-squash"
    target = directory / "out.json"
    subprocess.run(
        [sys.executable, program, "--elements", " ".join(names), "--path", directory, target],
        check=True,
        capture_output=True,
        env={**os.environ, **ENVIRONMENT, **variables},
    )
    return dict(json.loads(target.read_text()))


entries = st.fixed_dictionaries(
    {},
    optional={
        "arch": st.sampled_from(["amd64", "arm64", "amd64,arm64"]),
        "installtype": st.sampled_from(["source", "package"]),
        "when": st.sampled_from(["DIB_A=1", "DIB_A!=1", ["DIB_A=1", "DIB_B=2"]]),
        "phase": st.sampled_from(["pre-install.d", "install.d", "post-install.d"]),
    },
)


@settings(max_examples=6, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["curl", "vim", "htop", "jq"]), entries, min_size=1),
    st.sampled_from(["1", "2"]),
)
def test_conditions_mean_what_they_mean_to_diskimage_builder(
    tmp_path_factory: pytest.TempPathFactory,
    packages: dict[str, dict[str, object]],
    value: str,
) -> None:
    directory = tmp_path_factory.mktemp("elements")
    path = make_element(directory, "e", {"package-installs.yaml": json.dumps(packages)})
    variables = {"DIB_A": value, "DIB_B": "2"}
    theirs = squashed(directory, ["e"], variables)
    installed = {
        name
        for phase in theirs.values()
        for name, _element in phase.get("install", [])  # type: ignore[attr-defined]
    }
    assert set(planned(path, **variables)) == installed


def test_names_are_mapped_by_release_distribution_family_and_default(tmp_path: Path) -> None:
    path = make_element(
        tmp_path,
        "e",
        {
            "package-installs.yaml": "a:\nb:\nc:\nd:\ne-plain:\ngone:\n",
            "pkg-map": json.dumps(
                {
                    "release": {"debian": {"bookworm": {"a": "a-release"}}},
                    "distro": {"debian": {"a": "a-distro", "b": "b-distro"}},
                    "family": {"debian": {"b": "b-family", "c": "c-family c-more"}},
                    "default": {"c": "c-default", "d": "d-default", "gone": ""},
                }
            ),
        },
    )
    expected = ["a-release", "b-distro", "c-family", "c-more", "d-default", "e-plain"]
    assert planned(path) == expected


def test_a_condition_on_an_unknown_variable_is_left_to_the_element(tmp_path: Path) -> None:
    path = make_element(tmp_path, "e", {"package-installs.yaml": "curl:\n  when: DIB_NEW=1\n"})
    assert planned(path) == []
    assert planned(path, DIB_NEW="1") == ["curl"]


def test_what_one_element_removes_is_not_installed_beforehand(tmp_path: Path) -> None:
    one = make_element(tmp_path, "one", {"package-installs.yaml": "gcc:\nvim:\n"})
    two = make_element(tmp_path, "two", {"package-installs.yaml": "gcc:\n  uninstall: True\n"})
    assert planned(one, two) == ["vim"]


def test_our_elements_bring_their_packages() -> None:
    elements, _provided = resolve(["ssh-hardening", "growroot", "lvm-root"], [])
    names = planned_packages(
        elements,
        distribution="debian",
        suite="bookworm",
        arch="amd64",
        environment=ENVIRONMENT,
    )
    assert {"openssh-server", "cloud-guest-utils", "lvm2"} <= set(names)


@pytest.mark.parametrize("name", ["package-installs.yaml", "pkg-map"])
def test_broken_data_names_the_file(tmp_path: Path, name: str) -> None:
    path = make_element(tmp_path, "e", {"package-installs.yaml": "a:\n", name: "{a: [\n"})
    with pytest.raises(SpecError) as caught:
        planned(path)
    assert name in str(caught.value.where)
