"""Elements are found in order, resolved by diskimage-builder, and told apart by content."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.elements import make_element

from imagekit.errors import SpecError
from imagekit.installs.elements import catalogue
from imagekit.installs.elements.catalogue import ROOT_ELEMENT, find_all, resolve

OURS = {
    *("xen-guest", "xen-pv-kernel", "lvm-root", "cloud-init-xen"),
    *("golden", "serial-console", "growroot", "ssh-hardening"),
}


def test_our_elements_and_those_of_diskimage_builder_are_found() -> None:
    found = find_all()
    assert {n for n, e in found.items() if e.origin == "imagekit"} == OURS
    assert found["debian-minimal"].origin == "diskimage-builder"
    assert found["debian-minimal"].provides == ("operating-system",)


def test_a_directory_of_the_spec_comes_before_ours_and_ours_before_upstream(tmp_path: Path) -> None:
    assert find_all()["growroot"].origin == "imagekit"
    make_element(tmp_path, "growroot", {})
    assert find_all([tmp_path])["growroot"].path == tmp_path / "growroot"


def test_phases_are_in_the_order_of_disk_image_create() -> None:
    assert find_all()["package-installs"].phases() == [
        *("extra-data.d", "pre-install.d", "install.d", "post-install.d"),
    ]


def test_only_what_dib_run_parts_would_run_is_a_script(tmp_path: Path) -> None:
    path = make_element(
        tmp_path,
        "e",
        {
            "install.d/20-b": "#!/bin/sh\n",
            "install.d/3-a": "#!/bin/sh\n",
            "install.d/90-data.conf": "#!/bin/sh\n",
            "install.d/50-no-run-bit": "true\n",
        },
    )
    assert catalogue.load(path, "spec").scripts("install.d") == ["3-a", "20-b"]


def test_the_order_of_scripts_is_that_of_dib_run_parts_itself(tmp_path: Path) -> None:
    import subprocess

    names = ["9-x", "10-y", "010-z", "99-a", "1-c", "abc", "50-m", "50-b"]
    path = make_element(tmp_path, "e", {f"install.d/{n}": "#!/bin/sh\n" for n in names})
    program = catalogue.library_path("lib") / "dib-run-parts"
    listed = subprocess.run(
        [program, "--list", path / "install.d"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    theirs = [Path(line).name for line in listed]
    assert catalogue.load(path, "spec").scripts("install.d") == theirs


def test_dependencies_come_along_and_a_placeholder_stands_for_the_tree() -> None:
    elements, provided = resolve(["growroot"], [])
    names = [e.name for e in elements]
    assert provided is False
    assert ROOT_ELEMENT in names
    assert {"growroot", "package-installs", "install-bin", "pkg-map", "dpkg"} <= set(names)
    assert names == sorted(names)


def test_an_element_that_provides_the_system_leaves_the_placeholder_out() -> None:
    elements, provided = resolve(["debian-minimal"], [])
    assert provided is True
    assert ROOT_ELEMENT not in [e.name for e in elements]


@pytest.mark.parametrize("names", [["growrot"], ["growroot", "growrot"]])
def test_an_unknown_element_is_refused_and_the_near_one_named(names: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        resolve(names, [])
    assert "growrot" in caught.value.what
    assert "growroot" in str(caught.value.hint)


def test_an_unknown_dependency_is_refused(tmp_path: Path) -> None:
    make_element(tmp_path, "mine", {}, deps="nowhere-to-be-found\n")
    with pytest.raises(SpecError, match="nowhere-to-be-found"):
        resolve(["mine"], [tmp_path])


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        resolve(["growroot"], [tmp_path / "missing"])


def test_variables_are_those_that_the_files_mention() -> None:
    assert "DIB_XEN_INITRD_MODULES" in find_all()["xen-guest"].variables()


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.tuples(st.binary(max_size=20), st.booleans()),
        min_size=1,
    ),
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.tuples(st.binary(max_size=20), st.booleans()),
        min_size=1,
    ),
)
def test_digests_are_equal_exactly_for_equal_names_contents_and_run_bits(
    tmp_path_factory: pytest.TempPathFactory,
    one: dict[str, tuple[bytes, bool]],
    two: dict[str, tuple[bytes, bool]],
) -> None:
    def digest(files: dict[str, tuple[bytes, bool]]) -> str:
        root = tmp_path_factory.mktemp("digest")
        for name, (content, executable) in files.items():
            (root / name).write_bytes(content)
            (root / name).chmod(0o755 if executable else 0o644)
        element = catalogue.load(root, "spec")
        return catalogue.digest((name, element, root / name) for name in sorted(files))

    assert (digest(one) == digest(two)) == (one == two)
