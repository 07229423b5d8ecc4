"""Bodies of requests and responses, as JSON and in OpenAPI.

Rows are converted field by field: fields that are not listed here (upload ids of stores, session URIs, locks, actors)
cannot leak. Times are RFC 3339 in UTC, sizes are bytes, width and height are pixels.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SerializerFunctionWrapHandler,
    StrictInt,
    StringConstraints,
    model_serializer,
)

from rindle.arguments import MAX_FILENAME_CHARS, MAX_TEXT_CHARS
from rindle.db.models import MediaAsset, MediaUploadSession, MediaVariant
from rindle.delivery.urls import IssuedUrl, state_of_variant
from rindle.http.streams.mount import StreamGrant
from rindle.operations.repair import RequeueReport
from rindle.profile import Profile
from rindle.protocols import Part, Presigned, PresignedPart
from rindle.states import AssetState, MediaKind, SessionState, VariantState
from rindle.text import is_storable
from rindle.uploads.multipart import MultipartGrant
from rindle.uploads.resumable import ResumableGrant, ResumableProgress

#: Largest value of a size column.
_MAX_SIZE = 2**63 - 1


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError("must not contain NUL or unpaired surrogates")
    return text


#: A string of a client, in a body, the path, the query or a header: one that every database stores.
ClientText = Annotated[str, AfterValidator(_storable)]

Filename = Annotated[ClientText, StringConstraints(max_length=MAX_FILENAME_CHARS)]
ProfileName = Annotated[ClientText, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]

IdempotencyKey = Annotated[
    ClientText | None,
    Header(
        min_length=1,
        max_length=255,
        description="A repeated request of the same actor returns the first upload; refused without an actor.",
    ),
]


class _Body(BaseModel):
    """The body of a request; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


# --- requests ----------------------------------------------------------------------------------------------------


class NewUpload(_Body):
    """A ticket to upload one file."""

    profile: ProfileName = Field(description="The router's name of a profile.")
    filename: Filename = Field(description="The client's name of the file; only its extension is used for keys.")
    size: StrictInt | None = Field(
        None, ge=0, le=_MAX_SIZE, description="Size of the file in bytes; it is signed and checked."
    )
    content_type: Annotated[str, StringConstraints(max_length=255, pattern=r"^[ -~]*$")] | None = Field(
        None,
        description="The client's content type; recorded only. The PUT names a type of our own in its headers.",
    )
    strategy: Literal["presigned_put", "multipart", "resumable", "tus", "ietf"] = Field(
        "presigned_put",
        description="Upload lane; one that the storage lacks, and `tus` or `ietf` without a mount of the profile, "
        "answer `upload_unsupported`.",
    )
    part_size: StrictInt | None = Field(
        None,
        description="Only for `multipart`: bytes of each part but the last, 5 MiB to 5 GiB; 8 MiB by default. It is "
        "raised where 10000 parts would not suffice.",
    )
    expires_in: StrictInt | None = Field(
        None, description="Lifetime of the session in seconds, 60 to 604800; 86400 by default."
    )


class NewDirectUpload(_Body):
    """An upload to the streaming provider of a profile."""

    profile: ProfileName = Field(description="The router's name of a profile.")
    filename: Filename | None = Field(None, description="The client's name of the file; its extension is checked.")
    cors_origin: Annotated[ClientText, StringConstraints(max_length=MAX_TEXT_CHARS)] | None = Field(
        None, description="Origin of the page that sends the bytes; the header `Origin` when left out."
    )


class CompleteUpload(_Body):
    """The client's notice that all bytes were sent."""

    parts: list[Any] | None = Field(
        None,
        description="Only for multipart uploads: `{part_number, etag}` or `{PartNumber, ETag}` of each part, in any "
        "order; the parts that the store has when left out.",
    )


class VerifyByKey(_Body):
    """The storage key of an upload's object."""

    key: Annotated[ClientText, StringConstraints(min_length=1, max_length=1024)]


class Requeue(_Body):
    """Which variants to build again."""

    variant_names: list[Annotated[ClientText, StringConstraints(min_length=1, max_length=63)]] | None = Field(
        None, max_length=1000, description="All failed and cancelled ones when left out."
    )


# --- answers -----------------------------------------------------------------------------------------------------


class SessionJson(BaseModel):
    """An upload session."""

    id: str
    asset_id: str | None
    state: SessionState
    upload_key: str
    upload_strategy: str
    resumable_protocol: str | None
    upload_length: int | None
    last_known_offset: int
    expires_at: datetime
    verified_at: datetime | None
    failure_reason: str | None

    @classmethod
    def of(cls, row: MediaUploadSession) -> SessionJson:
        """Show a row."""
        return cls(
            id=row.id,
            asset_id=row.asset_id,
            state=SessionState(row.state),
            upload_key=row.upload_key,
            upload_strategy=row.upload_strategy,
            resumable_protocol=row.resumable_protocol,
            upload_length=row.upload_length,
            last_known_offset=row.last_known_offset,
            expires_at=row.expires_at,
            verified_at=row.verified_at,
            failure_reason=row.failure_reason,
        )


#: Fields of an asset that are left out where they are ``null``.
_SELDOM = frozenset({"display_name", "error_reason", "error_detail"})


class AssetJson(BaseModel):
    """The main facts of an asset."""

    id: str
    state: AssetState
    profile: str = Field(description="The router's name of the profile.")
    content_type: str | None
    byte_size: int | None
    filename: str | None = Field(description="The client's name of the file in plain ASCII.")
    display_name: str | None = Field(
        default=None, description="The name as the uploader wrote it, where `filename` differs; escape it on a page."
    )

    @model_serializer(mode="wrap")
    def _shown(self, serialize: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see below
        """Leave out what an asset seldom has. A return type here would replace the schema in the documentation."""
        return {name: value for name, value in serialize(self).items() if value is not None or name not in _SELDOM}

    @classmethod
    def of(cls, row: MediaAsset, profile: str) -> AssetJson:
        """Show a row; ``profile`` is the client's name of its profile."""
        return cls(
            id=row.id,
            state=AssetState(row.state),
            profile=profile,
            content_type=row.content_type,
            byte_size=row.byte_size,
            filename=row.filename,
            display_name=None if row.display_name == row.filename else row.display_name,
        )


class VariantJson(BaseModel):
    """A variant of an asset."""

    name: str
    state: VariantState = Field(description="`stale` as soon as the recipe has changed since the build.")
    progress: int = Field(description="Per cent, 0 to 100.")
    width: int | None
    height: int | None
    duration_ms: int | None = Field(description="Milliseconds; `null` for images and waveforms.")
    content_type: str | None
    byte_size: int | None
    error_code: str | None

    @classmethod
    def of(cls, row: MediaVariant, profile: type[Profile]) -> VariantJson:
        """Show a row of an asset of ``profile``."""
        return cls(
            name=row.name,
            state=VariantState(state_of_variant(profile, row)),
            progress=row.progress,
            width=row.width,
            height=row.height,
            duration_ms=row.duration_ms,
            content_type=row.content_type,
            byte_size=row.byte_size,
            error_code=row.error_code,
        )


class FullAssetJson(AssetJson):
    """An asset with all facts, and its variants by name."""

    kind: MediaKind
    width: int | None
    height: int | None
    duration_ms: int | None = Field(description="Milliseconds; `null` for images, and when unknown.")
    error_code: str | None = Field(description="Why the asset is quarantined, or why its promotion is delayed.")
    error_reason: str | None = Field(
        default=None,
        description="Of a quarantined asset only: what is wrong, and what to send instead, for the uploader.",
    )
    error_detail: dict[str, Any] | None = Field(
        default=None,
        description="Of a quarantined asset only: the parameters of that sentence, to translate it by `error_code`.",
    )
    variants: list[VariantJson]

    @classmethod
    def with_variants(cls, row: MediaAsset, name: str, profile: type[Profile]) -> FullAssetJson:
        """Show a row of ``profile`` whose variants are loaded; ``name`` is the client's name of the profile."""
        is_rejected = row.state == AssetState.QUARANTINED
        return cls(
            **AssetJson.of(row, name).model_dump(),
            kind=MediaKind(row.kind),
            width=row.width,
            height=row.height,
            duration_ms=row.duration_ms,
            error_code=row.error_code,
            error_reason=row.error_reason if is_rejected else None,
            error_detail=row.error_detail if is_rejected else None,
            variants=[VariantJson.of(variant, profile) for variant in row.variants if not variant.dynamic],
        )


class GrantJson(BaseModel):
    """Permission for one PUT; send ``headers`` exactly as they are. The URL is a credential."""

    url: str
    method: str
    headers: dict[str, str]
    expires_at: datetime

    @classmethod
    def of(cls, presigned: Presigned) -> GrantJson:
        """Show a grant."""
        return cls(
            url=presigned.url,
            method=presigned.method,
            headers=dict(presigned.headers),
            expires_at=presigned.expires_at,
        )


class MultipartJson(BaseModel):
    """How to cut a file into parts. Sign each part, and send it to its URL."""

    part_size: int = Field(description="Bytes of each part but the last.")
    part_count: int | None = Field(description="`null` when no size was declared.")

    @classmethod
    def of(cls, grant: MultipartGrant) -> MultipartJson:
        """Show what a client needs of a grant; the store's upload id stays here."""
        return cls(part_size=grant.part_size, part_count=grant.part_count)


class ResumableJson(BaseModel):
    """Where to send a file: whole, or in pieces of a multiple of 256 KiB with `Content-Range`.

    The URI is a credential.
    """

    session_uri: str = Field(repr=False)
    expires_at: datetime = Field(description="When the store forgets the session URI.")

    @classmethod
    def of(cls, grant: ResumableGrant) -> ResumableJson:
        """Show what a client needs of a grant; the store's upload id stays here."""
        return cls(session_uri=grant.session_uri.get_secret_value(), expires_at=grant.expires_at)


class StreamJson(BaseModel):
    """Where to send a file by tus, or by the draft of the IETF. `upload_url` is a credential."""

    endpoint: str = Field(description="Address of the protocol: a path on this site, or a URL.")
    upload_url: str = Field(repr=False, description="Address of this upload; its status says where to continue.")
    expires_at: datetime = Field(description="When the upload ends if no bytes arrive before.")

    @classmethod
    def of(cls, grant: StreamGrant) -> StreamJson:
        """Show a grant."""
        return cls(endpoint=grant.endpoint, upload_url=grant.upload_url, expires_at=grant.session.expires_at)


class PartGrantJson(BaseModel):
    """Permission for the PUT of one part; send ``headers`` exactly as they are. The URL is a credential."""

    url: str
    method: str
    headers: dict[str, str]
    part_number: int
    expires_at: datetime

    @classmethod
    def of(cls, presigned: PresignedPart) -> PartGrantJson:
        """Show a grant."""
        return cls(
            url=presigned.url,
            method=presigned.method,
            headers=dict(presigned.headers),
            part_number=presigned.part_number,
            expires_at=presigned.expires_at,
        )


class PartJson(BaseModel):
    """A part that has arrived; sizes in bytes."""

    part_number: int
    etag: str
    size: int

    @classmethod
    def of(cls, part: Part) -> PartJson:
        """Show a part."""
        return cls(part_number=part.part_number, etag=part.etag, size=part.size)


class PartsAnswer(RootModel[list[PartJson]]):
    """The parts that have arrived, in the order of their numbers."""


#: Fields of an upload of which only that of its own lane is there.
_LANES = frozenset({"upload", "multipart", "resumable", "tus", "ietf"})


class OpenedUpload(BaseModel):
    """An upload session, and how to send its bytes in its lane. The fields of other lanes are left out."""

    session: SessionJson
    upload: GrantJson | None = Field(default=None, description="Of `presigned_put`: one PUT.")
    multipart: MultipartJson | None = Field(default=None, description="Of `multipart`.")
    resumable: ResumableJson | None = Field(
        default=None, description="Of `resumable`, in the answer to the request that opened the upload, also repeated."
    )
    tus: StreamJson | None = Field(
        default=None, description="Of `tus`; of a live upload also where it is shown, to the actor who opened it."
    )
    ietf: StreamJson | None = Field(default=None, description="Of `ietf`, as of `tus`.")

    @model_serializer(mode="wrap")
    def _shown(self, serialize: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see above
        return {name: value for name, value in serialize(self).items() if value is not None or name not in _LANES}


class DirectUploadAnswer(BaseModel):
    """An upload to a streaming provider."""

    upload_url: str = Field(description="Address to which the browser sends the bytes in chunks; a credential.")
    asset_id: str = Field(description="The asset; it is `ready` when the provider can play it.")


class SessionAnswer(BaseModel):
    """An upload session."""

    session: SessionJson


class ResumableAnswer(BaseModel):
    """How far the upload to a session URI is."""

    session: SessionJson
    committed_bytes: int = Field(description="That the store has, from the beginning of the file; continue there.")
    state: Literal["in_progress", "complete"] = Field(
        description="`complete` is the store's claim, and nothing is verified by it."
    )

    @classmethod
    def of(cls, progress: ResumableProgress) -> ResumableAnswer:
        """Show a status."""
        return cls(
            session=SessionJson.of(progress.session), committed_bytes=progress.committed_bytes, state=progress.state
        )


class SignedAnswer(BaseModel):
    """An upload session and the grant to send its bytes."""

    session: SessionJson
    upload: GrantJson


class CompletedAnswer(BaseModel):
    """A verified upload and its asset; validation continues in the background."""

    session: SessionJson
    asset: AssetJson


class AssetAnswer(BaseModel):
    """The main facts of an asset."""

    asset: AssetJson


class FullAssetAnswer(BaseModel):
    """An asset and its variants."""

    asset: FullAssetJson


class UrlAnswer(BaseModel):
    """The URL of an object; a signed URL is a credential."""

    url: str
    expires_at: datetime | None = Field(description="`null` for a public URL.")

    @classmethod
    def of(cls, issued: IssuedUrl) -> UrlAnswer:
        """Show an issued URL."""
        return cls(url=issued.url, expires_at=issued.expires_at)


class CancelReport(BaseModel):
    """The number of cancelled builds."""

    asset_id: str
    cancelled: int


class RequeueFailure(BaseModel):
    """A variant that was not queued, and the reason."""

    asset_id: str
    variant_id: str
    variant_name: str
    state: VariantState
    failure_class: str
    reason: str
    message: str


class RequeueAnswer(BaseModel):
    """The result of a requeue."""

    asset_id: str
    selected: int
    enqueued: int
    skipped: int
    errors: int
    failures: list[RequeueFailure]

    @classmethod
    def of(cls, report: RequeueReport) -> RequeueAnswer:
        """Show a report."""
        return cls.model_validate(report.to_dict())
