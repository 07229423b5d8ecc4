"""Every public callable takes an id as text or ``UUID``, and an asset wherever it takes the id of one.

Found by introspection, so that a new call cannot forget it; ``tests/integration/test_ids.py`` makes the calls.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import TypeAdapter

import rindle
from rindle import MediaAsset, Rindle, messages
from rindle.attachments import SessionAttachments
from rindle.delivery.loading import LoadedAsset
from rindle.messages import Message
from rindle.workflows import ids

#: Names of parameters that stand for a row. ``owner`` and ``variant`` are given otherwise.
_ROWS = ("asset", "asset_id", "asset_or_key", "operation_id", "session_id", "variant_id", "subject", "id")
#: Packages with the flows behind the methods of ``Rindle``; a flow begins with the services that it uses.
_FLOWS = ("assets", "attachments", "delivery", "erasure", "operations", "subscriptions", "uploads")
_SERVICES = ("services", "listener")


def _modules() -> Iterator[Any]:
    for name in _FLOWS:
        module = importlib.import_module(f"rindle.{name}")
        yield module
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"rindle.{name}."):
            yield importlib.import_module(found.name)


def _callables() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for cls in (Rindle, SessionAttachments):
        for name, member in inspect.getmembers(cls, inspect.isfunction):
            if not name.startswith("_"):
                found[f"{cls.__name__}.{name}"] = member
    for module in _modules():
        for name, member in inspect.getmembers(module, inspect.isfunction):
            is_flow = next(iter(inspect.signature(member).parameters), "") in _SERVICES
            if member.__module__ == module.__name__ and not name.startswith("_") and is_flow:
                found[f"{module.__name__}.{name}"] = member
    for name, member in inspect.getmembers(ids, inspect.isfunction):
        if name.endswith("_id"):
            found[f"{ids.__name__}.{name}"] = member
    return found


CALLABLES = _callables()
PARAMETERS = [
    (name, parameter)
    for name, member in CALLABLES.items()
    for parameter in inspect.signature(member).parameters
    if parameter in _ROWS
]


def _types(annotation: Any) -> set[Any]:
    return {one for part in typing.get_args(annotation) for one in _types(part)} or {annotation}


def test_the_calls_are_found() -> None:
    assert len(PARAMETERS) > 30
    assert {"Rindle.attach", "rindle.delivery.urls.url", "rindle.uploads.sessions.resume"} <= CALLABLES.keys()


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_an_id_may_be_text_or_uuid_and_an_asset_stands_for_its_own(name: str, parameter: str) -> None:
    types = _types(typing.get_type_hints(CALLABLES[name])[parameter])
    if types == {MediaAsset} and not name.startswith(("Rindle.", "SessionAttachments.")):
        return  # a step of a flow, which has the row already

    assert {str, UUID} <= types, f"use AssetOrId or SessionOrId of rindle.db.ids: {types}"
    if parameter.startswith("asset") and not name.startswith(ids.__name__):
        assert MediaAsset in types
    assert types <= {str, UUID, type(None), LoadedAsset, *(getattr(rindle, one) for one in rindle.__all__)}


@pytest.mark.parametrize("name", CALLABLES)
def test_an_actor_may_be_text_or_uuid(name: str) -> None:
    hints = typing.get_type_hints(CALLABLES[name])
    for parameter in {"actor", "uploaded_by"} & inspect.signature(CALLABLES[name]).parameters.keys():
        assert hints[parameter] is Any or {str, UUID} <= _types(hints[parameter])


@pytest.mark.parametrize(
    "message", [one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, Message)]
)
def test_a_message_takes_the_id_of_a_row_in_every_form(message: type[Message]) -> None:
    row_id, hints = uuid4(), typing.get_type_hints(message, include_extras=True)
    for field in message.model_fields:
        if field not in ("asset_id", "operation_id", "session_id", "session_ids"):
            assert not field.endswith("_id") or field == "workflow_id", f"use RowId for {field}"
            continue
        for form in (row_id, str(row_id).upper(), row_id.hex):
            given = (form,) if field == "session_ids" else form
            expected = (str(row_id),) if field == "session_ids" else str(row_id)
            assert TypeAdapter(hints[field]).validate_python(given) == expected


@pytest.mark.parametrize("make", [ids.upload_id, ids.purge_id, lambda row: ids.variants_id(row, "images")])
def test_a_workflow_has_one_id_whatever_the_form_of_its_row_s(make: Callable[[Any], str]) -> None:
    row_id = uuid4()

    assert len({make(form) for form in (row_id, str(row_id), str(row_id).upper())}) == 1
