"""The base class of the operators' reports, with their JSON form.

The reports themselves are defined beside the calls that return them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

from rindle.instants import iso_instant


@dataclass(frozen=True, slots=True)
class Report:
    """A report, or a part of one; its JSON form is an object with its fields in their order.

    ``field(metadata=...)`` changes that: ``json`` is the key when the field's own name cannot be used (``class``), and
    an ``optional`` field is left out while it is empty.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: times as strings, parts as objects."""
        found = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value or not one.metadata.get("optional"):
                found[one.metadata.get("json", one.name)] = _as_json(value)
        return found

    @classmethod
    def of(cls, row: Any) -> Self:
        """Return a report of a row's attributes of the same names."""
        return cls(**{one.name: getattr(row, one.name) for one in fields(cls)})


def _as_json(value: Any) -> Any:
    if isinstance(value, Report):
        return value.to_dict()
    if isinstance(value, datetime):
        return iso_instant(value)
    if isinstance(value, Mapping):
        return {name: _as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    return value
