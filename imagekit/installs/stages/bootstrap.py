"""Runs the tools that make a tree of packages, in a sandbox beside the tree.

They are the host's programs, and see the host's read-only: the tree and one directory for temporary
files are theirs to write. Programs of packages run below them, with the same few rights: nothing is
mounted by the tools, and no device node made. mmdebstrap(1) unpacks /proc, /sys and /dev first; the
sandbox then shows its own there. debootstrap(8) is run in its two stages: the first runs nothing of
the tree, the second is the tree's own business, in a sandbox whose root it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imagekit.host.chroot import CHROOT_PATH, chroot
from imagekit.host.sandbox.box import Sandbox
from imagekit.host.sandbox.profiles import PACKAGES
from imagekit.installs.stages.offering import Offer

SHIPS = ("../hooks",)
HOOKS = Path(__file__).parents[1] / "hooks"
# Inside.
TREE, WORK, SOURCES, REPOSITORY, OFFERED = (
    f"/imagekit/{name}" for name in ("tree", "work", "sources", "packages", "offered")
)
HOOKS_INSIDE = "/imagekit/hooks"
LISTS, DEBS = f"{WORK}/lists", f"{WORK}/debs"
HOURS = 2 * 3600.0
KERNEL = ("proc", "sys", "dev")
IN_CONTAINER = {"container": "lxc"}
"""debootstrap then goes on where it cannot make device nodes; the sandbox has them."""
# sh(1): descriptor 8 is that of Sandbox.later.
SHOW_KERNEL = "echo >&8 && read -r shown <&8"
SKIPPED = (
    "check/empty",  # the tree holds what the sandbox is mounted on
    "chroot/mount",  # done by the sandbox
    "essential/unlink",  # customize.sh takes the packages out
)


@dataclass(frozen=True)
class Bootstrap:
    """A tree that is being made.

    ``work`` is a directory for temporary files; apt's lists end in ``work``/lists, and the packages
    that mmdebstrap fetched in ``work``/debs. ``sources`` is a directory of what the tools are
    given: sources.list, keyring. ``environment`` is added to a fixed one. ``mirrors`` are URLs:
    what they name on this host is shown read-only. ``offer`` has packages that need not be fetched.
    """

    tree: Path
    work: Path
    sources: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()
    offer: Offer | None = None

    def mmdebstrap(
        self,
        options: Sequence[str],
        where: Sequence[str],
        *,
        repository: Path | None,
        wanted: Sequence[str] = (),
        on_line: Callable[[str], None],
    ) -> None:
        """Run mmdebstrap; ``where`` are suite and sources; ``repository`` is shown read-only.

        ``wanted`` are arguments of ``apt-get install``: packages that it may take from the offer.
        Raises ToolError.
        """
        argv = ["mmdebstrap", "--mode=root", "--format=directory", *options]
        offer = self.offer
        answering: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if offer is not None:
            argv += [f"--setup-hook={HOOKS_INSIDE}/offer.sh"]
            answering = offer.answering()

        def line(text: str) -> None:
            if offer is None or not offer.line(text):
                on_line(text)

        argv += [f"--skip={','.join(SKIPPED)}", f"--extract-hook={SHOW_KERNEL}"]
        argv += [f"--essential-hook={HOOKS_INSIDE}/essential.sh"]
        argv += [f"--customize-hook={HOOKS_INSIDE}/customize.sh"]
        suite, *sources = where
        with answering:
            self._beside(repository, later=True).run(
                [*argv, suite, TREE, *sources],
                env={**self._env(), "IMAGEKIT_WANTED": " ".join(wanted)},
                timeout=HOURS,
                log=self.log,
                on_line=line,
                what="mmdebstrap",
            )

    def debootstrap(self, options: Sequence[str], where: Sequence[str]) -> None:
        """Run both stages of debootstrap; ``where`` are suite and mirror. Raises ToolError."""
        suite, *mirror = where
        self._beside().run(
            ["debootstrap", "--foreign", *options, suite, TREE, *mirror],
            env={**self._env(), **IN_CONTAINER},
            timeout=HOURS,
            log=self.log,
            what="debootstrap",
        )
        second = ["/debootstrap/debootstrap", "--second-stage"]
        self.inside(second, env=IN_CONTAINER, what="debootstrap, its second stage")

    def hook(self, name: str) -> None:
        """Run a program of installs/hooks on the tree; raises ToolError."""
        self._beside().run(
            [f"{HOOKS_INSIDE}/{name}", TREE],
            env=self._env(),
            timeout=HOURS,
            log=self.log,
            what=f"the hook {name}",
        )

    def inside(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, what: str
    ) -> None:
        """Run a program of the tree in it, with a network; raises ToolError."""
        chroot(
            self.tree,
            argv,
            env={**self.environment, **(env or {})},
            network=True,
            log=self.log,
            timeout=HOURS,
            what=what,
        )

    def _beside(self, repository: Path | None = None, *, later: bool = False) -> Sandbox:
        shown = {HOOKS: HOOKS_INSIDE, self.sources: SOURCES}
        shown |= {p: str(p) for p in mirror_directories(self.mirrors)}
        if repository is not None:
            shown[repository] = REPOSITORY
        if self.offer is not None:
            shown[self.offer.directory] = OFFERED
        if os.path.exists("/etc/hostname"):  # noqa: PTH110 - mmdebstrap copies it into the tree
            shown[Path("/etc/hostname")] = "/etc/hostname"
        return Sandbox(
            self.tree,
            PACKAGES,
            host_programs=True,
            read_only=shown,
            writable={self.tree: TREE, self.work: WORK},
            network=True,
            later={f"/{name}": f"{TREE}/{name}" for name in KERNEL} if later else {},
        )

    def _env(self) -> dict[str, str]:
        return {
            "PATH": CHROOT_PATH,
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TMPDIR": WORK,
            "IMAGEKIT_LISTS": LISTS,
            "IMAGEKIT_DEBS": DEBS,
            **self.environment,
        }


def mirror_directories(urls: Iterable[str]) -> list[Path]:
    """The directories of this host that ``urls`` of the methods file and copy name as mirrors.

    What has no "dists" is no mirror, and not shown: it could be /etc.
    """
    found = []
    for url in urls:
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        if parts.scheme in ("file", "copy") and path.is_absolute() and (path / "dists").is_dir():
            found.append(path)
    return list(dict.fromkeys(found))
