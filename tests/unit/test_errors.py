"""Errors: one catalogue, stable codes, messages fit for strangers, and the way there and back through Temporal."""

from __future__ import annotations

import pytest
from temporalio.exceptions import ApplicationError

from rindle import errors
from rindle.activities.failures import MAX_FAILURE_CHARS, to_application_error
from rindle.errors import CODES, RindleError, describe, error_of, http_status_of


def _made(code: str) -> RindleError:
    return error_of(code, "what failed", {"capability": "x", "state": "staged"})


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_can_be_rebuilt_and_crosses_temporal_with_its_meaning(code: str) -> None:
    error = _made(code)
    assert isinstance(error, CODES[code])
    assert (error.code, error.http_status) == (code, http_status_of(code))
    assert error.to_dict()["code"] == code
    crossed = to_application_error(error)
    assert isinstance(crossed, ApplicationError)
    assert (crossed.type, crossed.non_retryable) == (code, not error.retryable)


@pytest.mark.parametrize(
    "error",
    [
        errors.AssetNotDeliverable("what failed", state="staged"),
        errors.CapabilityUnsupported("what failed", capability="upload", code="delivery_unsupported"),
        errors.NotCancellable("what failed", reason="state", state="preparing"),
        errors.OffsetMismatch("what failed", server=7, client=3, detail={"more": True}),
    ],
    ids=lambda error: error.code,
)
def test_a_rebuilt_error_has_the_arguments_that_its_detail_keeps(error: RindleError) -> None:
    rebuilt = error_of(error.code, error.message, error.detail)
    assert type(rebuilt) is type(error)
    assert (rebuilt.code, rebuilt.detail) == (error.code, error.detail)
    assert error.detail_arguments
    for name in error.detail_arguments:
        assert vars(rebuilt)[name] == vars(error)[name]


def test_an_unknown_code_keeps_its_name_in_the_detail() -> None:
    assert error_of("of_a_newer_worker", "?").detail == {"code": "of_a_newer_worker"}
    assert http_status_of("of_a_newer_worker") == 500


def test_a_foreign_exception_is_reduced_to_its_class() -> None:
    assert describe(ValueError("https://bucket/key?X-Amz-Signature=abc")) == ("unexpected", "unexpected ValueError")


def test_what_crosses_temporal_is_short_and_scrubbed() -> None:
    leaky = errors.StoragePermanent("GET https://b/k?X-Amz-Signature=deadbeef failed " + "x" * 5000)
    text = to_application_error(leaky).message
    assert "deadbeef" not in text
    assert len(text) <= MAX_FAILURE_CHARS


def test_statuses_are_those_of_the_contract() -> None:
    expected = {
        "not_found": 404,
        "state_conflict": 409,
        "quarantined": 422,
        "max_bytes_exceeded": 413,
        "mime_not_allowed": 422,
        "scanner_unavailable": 503,
        "storage_object_missing": 409,
        "upload_session_expired": 410,
        "upload_cancelled": 409,
        "upload_already_completed": 409,
        "storage_transient": 503,
        "upload_unsupported": 422,
        "delivery_unsupported": 422,
        "unauthorized": 403,
        "unauthenticated": 401,
        "invalid_argument": 400,
        "temporal_unavailable": 503,
        "asset_not_deliverable": 409,
        "variant_not_ready": 409,
        "profile_mismatch": 422,
        "range_unparseable": 416,
        "still_attached": 409,
    }
    assert {code: http_status_of(code) for code in expected} == expected
