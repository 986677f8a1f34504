"""The ``openstack`` command as far as scripts use it: image list, create and delete."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from oracles import shell_calls
from oracles.shell_calls import Refused


@dataclass
class FakeOpenstack:
    """``images`` by id, as created. Creating one of the name ``refuse`` fails; with ``half`` its
    record stays, as when the data is refused, or openstack is killed, in the middle.
    """

    refuse: str = ""
    half: bool = False
    keep: bool = False
    images: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, words: list[str]) -> str:
        command, words = words[:2], words[2:]
        if command == ["image", "list"]:
            assert words[0] == "--name" and words[2:] == ["-f", "value", "-c", "ID"]
            return " ".join(i for i, image in self.images.items() if image["name"] == words[1])
        if command == ["image", "delete"]:
            if self.keep or words[0] not in self.images:
                raise Refused(f"No Image found for {words[0]}")
            del self.images[words[0]]
            return ""
        assert command == ["image", "create"]
        image = created(words)
        if image["name"] == self.refuse and not self.half:
            raise Refused("HTTP 400")
        self.images[image["id"]] = image
        if image["name"] == self.refuse:
            raise Refused("HTTP 413")
        return str(image["id"])


def created(words: list[str]) -> dict[str, Any]:
    """The arguments of ``openstack image create`` as its command line parser reads them."""
    words = list(words)
    result: dict[str, Any] = {"properties": {}}
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            assert "name" not in result
            result["name"] = word
        elif word == "--property":
            key, sign, value = words.pop(0).partition("=")
            assert sign and key not in result["properties"]
            result["properties"][key] = value
        else:
            assert word.lstrip("-") not in result or word == "-c"
            result[word.lstrip("-")] = words.pop(0)
    return result


def run(script: str, fake: FakeOpenstack) -> tuple[int, str, str]:
    """Run ``script`` under sh; its status, standard output and error."""
    return shell_calls.run(script, {"openstack": fake})
