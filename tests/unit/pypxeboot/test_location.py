"""Names in configs become locations on boot servers, and never leave them."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import SpecError
from imagekit.pypxeboot.location import from_url, normalise, server_root


@pytest.mark.parametrize(
    ("prefix", "name", "url"),
    [
        ("", "a/b", "tftp://h/a/b"),
        ("pxe", "a", "tftp://h/pxe/a"),
        ("/srv/pxe/", "/images/k", "tftp://h/srv/pxe/images/k"),
        ("pxe/", "::images/k", "tftp://h/images/k"),
        ("pxe/", "other::k", "tftp://other/k"),
        ("pxe/", "tftp://x/k", "tftp://x/k"),
        ("pxe/", "http://x:8080/k?a=b", "http://x:8080/k?a=b"),
        ("http://x/base/", "a b/k", "http://x/base/a%20b/k"),
        ("http://x/base/", "k?m=1", "http://x/base/k?m=1"),
        ("http://x/base/", "::k", "http://x/k"),
        ("pxe/sub/", "../k", "tftp://h/pxe/k"),
    ],
)
def test_names_are_relative_to_the_prefix(prefix: str, name: str, url: str) -> None:
    assert server_root("h", prefix).resolve(name).url == url


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "", "a\nb", "a\0b", "x" * 2000, "file:///etc/passwd", "ftp://h/x"]
)
def test_names_that_leave_the_server_are_refused(name: str) -> None:
    with pytest.raises(SpecError):
        server_root("h", "").resolve(name)


@pytest.mark.parametrize(
    "url",
    [
        "http:///x",
        "http://u:p@h/x",
        "http://h:99999/x",
        "http://[::1]/",
        "http://h/%00",
        "http://h/%2e%2e/x",
    ],
)
def test_strange_urls_are_refused(url: str) -> None:
    with pytest.raises(SpecError):
        from_url(url)


@given(st.text("ab./", max_size=30))
def test_normalised_path_agrees_with_posixpath(path: str) -> None:
    try:
        mine = normalise(path)
    except SpecError:
        assert min_depth(path) < 0
        return
    assert min_depth(path) >= 0
    expected = posixpath.normpath(path.strip("/")) if path.strip("/") else "."
    assert (mine.strip("/") or ".") == expected


def min_depth(path: str) -> int:
    depth = lowest = 0
    for part in path.split("/"):
        depth += {"..": -1, "": 0, ".": 0}.get(part, 1)
        lowest = min(lowest, depth)
    return lowest
