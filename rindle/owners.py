"""Owners of attachments: objects of the application, named by a type and an id."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import inspect as sqlalchemy_inspect
from sqlalchemy.exc import NoInspectionAvailable

from rindle.arguments import MAX_TEXT_CHARS, text_flaw
from rindle.declarations import name_flaw
from rindle.errors import InvalidOwner, InvalidSlot, OwnerNotPersisted, OwnerTypeConflict
from rindle.protocols import OwnerRef


class OwnerTypes:
    """Type names of mapped classes: registered ones, else the class name of the base mapper; and declared slots.

    Register them (``rindle.register_owner_type("user", User)``), so that a class keeps its media when it is renamed.
    """

    def __init__(self) -> None:
        self._names: dict[type[Any], str] = {}
        self._classes: dict[str, type[Any]] = {}
        self._slots: dict[str, dict[str, frozenset[str]]] = {}

    def register(
        self, name: str, owner_class: type[Any] | None = None, *, slots: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """Give ``owner_class`` (and its single-table children) the stable type ``name``.

        Args:
            owner_class: may be left out for owners that are named by a tuple or an ``OwnerRef``.
            slots: names of the profiles that each slot accepts; repeated calls add to them.

        Raises:
            InvalidOwner: the name is not 1 to 255 printable ASCII characters.
            OwnerTypeConflict: another class has that name.
            InvalidSlot: the name of a slot is invalid.
        """
        _check_type(name)
        declared = {check_slot(slot): frozenset(profiles) for slot, profiles in (slots or {}).items()}
        if owner_class is not None:
            base = _base_class(owner_class)
            self._claim(name, base)
            self._names[base] = name
        self._slots.setdefault(name, {}).update(declared)

    def profiles_of(self, ref: OwnerRef, slot: str) -> frozenset[str] | None:
        """Return the names of the profiles that a slot accepts, or ``None`` when the slot is not declared."""
        return self._slots.get(ref.type, {}).get(slot)

    def ref(self, owner: Any) -> OwnerRef:
        """Return the reference of an owner.

        Accepts an ``OwnerRef``, a ``(type, id)`` tuple, an object with ``__rindle_owner__()`` returning such a tuple,
        or an instance of a class mapped by SQLAlchemy (expired and detached ones too; nothing is loaded).

        Raises:
            OwnerNotPersisted: the instance has no primary key yet; flush it first.
            InvalidOwner: anything else, or a type or id that is empty, too long or cannot be stored.
            OwnerTypeConflict: two classes would share one type name, and so the same media.
        """
        if isinstance(owner, OwnerRef):
            return _checked(owner.type, owner.id)
        if hasattr(owner, "__rindle_owner__"):
            owner = owner.__rindle_owner__()
        if isinstance(owner, tuple) and len(owner) == 2:
            return _checked(owner[0], owner[1])
        try:
            state = sqlalchemy_inspect(owner)
        except NoInspectionAvailable as error:
            raise _not_an_owner(owner) from error
        if not hasattr(state, "identity") or not hasattr(state, "mapper"):
            raise _not_an_owner(owner)
        if state.identity is None:
            raise OwnerNotPersisted(
                f"this {type(owner).__name__} has no primary key yet: flush the session before attaching to it"
            )
        base = state.mapper.base_mapper.class_
        name = self._names.get(base, base.__name__)
        self._claim(name, base)
        parts = [_text(part) for part in state.identity]
        identity = parts[0] if len(parts) == 1 else json.dumps(parts, separators=(",", ":"))
        return _checked(name, identity)

    def _claim(self, name: str, base: type[Any]) -> None:
        known = self._classes.setdefault(name, base)
        if known is not base:
            raise OwnerTypeConflict(
                f"{known.__module__}.{known.__qualname__} and {base.__module__}.{base.__qualname__} both have the "
                f"owner type {name!r}. To fix: register one of them under another name with register_owner_type",
                detail={"type": name},
            )


def check_slot(slot: str) -> str:
    """Return ``slot`` when it is 1 to 255 characters without control characters and unpaired surrogates.

    Raises:
        InvalidSlot: it is not.
    """
    if text_flaw(slot, min_chars=1) is not None or any(ord(c) < 32 or ord(c) == 127 for c in slot):
        raise InvalidSlot("a slot is 1 to 255 characters without control characters, for example 'avatar'")
    return slot


def _base_class(owner_class: type[Any]) -> type[Any]:
    try:
        mapper = sqlalchemy_inspect(owner_class)
    except NoInspectionAvailable:
        return owner_class
    base: type[Any] = mapper.base_mapper.class_
    return base


def _text(part: Any) -> str:
    return str(part).lower() if isinstance(part, uuid.UUID) else str(part)


def _checked(owner_type: Any, owner_id: Any) -> OwnerRef:
    name, identity = str(owner_type or ""), "" if owner_id is None else _text(owner_id)
    _check_type(name)
    flaw = text_flaw(identity, min_chars=1)
    if flaw is not None:
        raise InvalidOwner(f"the id of an owner {flaw}", detail={"option": "id", "max_chars": MAX_TEXT_CHARS})
    return OwnerRef(name, identity)


def _check_type(name: Any) -> None:
    flaw = name_flaw(name)
    if flaw is not None:
        raise InvalidOwner(
            f"the type of an owner {flaw}; give a class with another name a type by register_owner_type",
            detail={"option": "type", "max_chars": MAX_TEXT_CHARS},
        )


def _not_an_owner(owner: Any) -> InvalidOwner:
    return InvalidOwner(
        f"a {type(owner).__name__} is not an owner: pass an instance of a mapped class, an OwnerRef, "
        "a (type, id) tuple, or an object with __rindle_owner__()"
    )
