"""A VNC screen in the keys that xm had and xl kept (xl.cfg(5), xmdomain.cfg(5))."""

from __future__ import annotations

from imagekit.domain.model import Vnc


def vnc_pairs(vnc: Vnc) -> list[tuple[str, str | int]]:
    """A VNC screen as keys and values."""
    pairs: list[tuple[str, str | int]] = [("vnc", 1), ("vnclisten", vnc.listen)]
    pairs.append(("vncunused", 1 if vnc.display is None else 0))
    if vnc.display is not None:
        pairs.append(("vncdisplay", vnc.display))
    if vnc.password is not None:
        pairs.append(("vncpasswd", vnc.password))
    if vnc.keymap is not None:
        pairs.append(("keymap", vnc.keymap))
    return pairs
