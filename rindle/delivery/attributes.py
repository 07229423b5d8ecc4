"""Attributes of the media tags: which names are accepted, and how keywords become names.

Only known names are accepted, so that a misspelled option of a tag is an error and never a meaningless attribute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rindle.errors import InvalidArgument


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


#: Attributes of every element. Source: HTML Living Standard, 3.2.6 (global attributes) and the chapters it names.
_GLOBAL = _names(
    "accesskey autocapitalize autocorrect autofocus class contenteditable dir draggable enterkeyhint exportparts "
    "hidden id inert inputmode is itemid itemprop itemref itemscope itemtype lang nonce part popover role slot "
    "spellcheck style tabindex title translate writingsuggestions"
)
#: Attributes of both players. Source: HTML Living Standard, 4.8.11 (media elements); W3C Remote Playback API, 3.
_PLAYER = _names("autoplay controls controlslist crossorigin disableremoteplayback loop muted preload")
#: Attributes of each element, without those that the tags set themselves. Source: HTML Living Standard, 4.8.3 (img),
#: 4.8.8 (video), 4.8.9 (audio); W3C Picture-in-Picture, 5.
_KNOWN: Mapping[str, frozenset[str]] = {
    "img": _GLOBAL
    | _names("alt crossorigin decoding elementtiming fetchpriority height ismap loading referrerpolicy usemap width"),
    "video": _GLOBAL | _PLAYER | _names("disablepictureinpicture height playsinline width"),
    "audio": _GLOBAL | _PLAYER,
}
_OWN = re.compile(r"(?:data|aria)-[A-Za-z0-9_.:-]+")


def attributes_of(element: str, *given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the attributes of ``img``, ``video`` or ``audio`` by their HTML names; later ones take precedence.

    ``class_`` is ``class``, ``data_x`` is ``data-x``, ``aria_x`` is ``aria-x``. Attributes of the application itself
    have names that begin with ``data-``.

    Raises:
        InvalidArgument: the element has no such attribute, or the tag sets it itself.
    """
    found: dict[str, Any] = {}
    for attrs in given:
        for key, value in (attrs or {}).items():
            name = _name(key)
            if name not in _KNOWN[element] and not _OWN.fullmatch(name):
                raise InvalidArgument(
                    f"{str(key)[:63]!r} is neither an option of this tag nor an accepted attribute of <{element}>; "
                    "event handlers and src are refused, and names of your own begin with data_",
                    detail={"option": str(key)[:63]},
                )
            found[name] = value
    return found


def _name(key: Any) -> str:
    name = str(key)
    if name.startswith(("data_", "aria_")):
        return name.replace("_", "-")
    if name.startswith(("data-", "aria-")):
        return name
    return (name[:-1] if name.endswith("_") else name).lower()
