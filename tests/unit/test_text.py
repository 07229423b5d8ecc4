"""Text of other systems: every copy of it can be stored, and fits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.arguments import check_text
from rindle.declarations import name_flaw
from rindle.errors import InvalidArgument, RindleError
from rindle.text import bounded, bounded_key, is_storable, storable, storable_document
from rindle.workflows import ids

TEXT = st.text(st.one_of(st.characters(), st.sampled_from('\x00\ud800\udfffЖ\U0001f600"\\\n')), max_size=400)


@given(TEXT, st.integers(3, 500))
def test_bounded_text_fits_and_can_be_encoded(text: str, max_bytes: int) -> None:
    found = bounded(text, max_bytes)

    assert is_storable(found) and len(found.encode()) <= max_bytes
    assert found == storable(text) or (found.endswith("…") and storable(text).startswith(found[:-1]))


@given(TEXT, st.integers(17, 500))
def test_a_bounded_key_fits_and_is_unchanged_when_it_did(text: str, max_bytes: int) -> None:
    found = bounded_key(text, max_bytes)

    assert is_storable(found) and len(found.encode()) <= max_bytes
    assert found == storable(text) or len(storable(text).encode()) > max_bytes


def test_long_keys_with_one_beginning_stay_different() -> None:
    assert bounded_key("Ж" * 44 + "a", 64) != bounded_key("Ж" * 44 + "b", 64)
    assert bounded("Ж" * 44 + "a", 64) == bounded("Ж" * 44 + "b", 64) == "Ж" * 30 + "…"


@given(TEXT)
def test_labels_fit_into_what_temporal_accepts(text: str) -> None:
    assert len(json.dumps(ids.summary(text), ensure_ascii=False).encode()) <= ids.SUMMARY_BYTES
    assert len((ids.fairness_key(text) or "").encode()) <= ids.FAIRNESS_KEY_BYTES
    for pair in ids.attributes(text, profile=text):
        assert len(pair.value.encode()) <= ids.KEYWORD_BYTES


def test_every_string_of_a_document_is_made_storable() -> None:
    document = {"a\0": ["\ud800", {"b": ("\0", 1, None, True)}]}

    assert storable_document(document) == {"a\ufffd": ["\ufffd", {"b": ["\ufffd", 1, None, True]}]}


def test_an_error_can_always_be_sent() -> None:
    error = RindleError("a\0\ud800", detail={"found": ["\udfff"]})

    assert json.loads(json.dumps(error.to_dict(), ensure_ascii=False).encode())["message"] == "a\ufffd\ufffd"


@pytest.mark.parametrize("value", [3, "a\0", "\ud800", "x" * 256, b"x"])
def test_a_text_argument_is_refused_by_name_and_not_repeated(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^actor ") as caught:
        check_text("actor", value)

    assert caught.value.detail["option"] == "actor" and str(value) not in caught.value.message


@pytest.mark.parametrize("value", [None, "", "Ж" * 255, "a\nb", "\U0001f600"])
def test_other_text_is_accepted(value: str | None) -> None:
    check_text("actor", value)


@pytest.mark.parametrize("name", ["Ж", "é", "a\n", "", " ", "a" * 256, 3, None])
def test_a_permanent_name_is_printable_ascii(name: object) -> None:
    assert name_flaw(name) is not None


@pytest.mark.parametrize("name", ["a", "module.Profile.<locals>.Avatar", "my avatar", "a" * 255])
def test_other_names_are_valid(name: str) -> None:
    assert name_flaw(name) is None
