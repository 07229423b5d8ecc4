"""Uploads of clients that speak the S3 protocol of Uppy's Companion: the grants, parts and answers they get.

They use the lanes of :mod:`rindle.uploads.direct` and :mod:`rindle.uploads.multipart`; the id of a session takes the
place of the store's upload id, which stays on the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from rindle.capabilities import capabilities_of
from rindle.db.ids import SessionOrId
from rindle.db.models import MediaUploadSession
from rindle.errors import InvalidArgument, InvalidMultipartParts
from rindle.profile import Profile
from rindle.protocols import Presigned, PresignedPart, PresignedPost
from rindle.services import Services
from rindle.uploads import direct, multipart, sessions
from rindle.uploads.sessions import Upload, UploadRequest

#: Most parts that one request signs; clients sign a few at a time.
MAX_SIGNED_PARTS = 1000


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A session and the grant of its bytes: a form, or a PUT."""

    session: MediaUploadSession
    grant: PresignedPost | Presigned


async def open_file(services: Services, profile: type[Profile], request: UploadRequest) -> OpenedFile:
    """Open an upload of one request, and have its workflow verify it: these clients do not say when they have ended.

    The grant is a form where the storage takes forms, because newer clients send nothing else; otherwise it is a PUT.

    Raises:
        CapabilityUnsupported: the profile's storage takes neither; no row was written.
    """
    wanted = replace(request, auto_verify=True)
    if direct.takes_forms(services, profile):
        form = await direct.initiate_and_sign_form(services, profile, wanted)
        return OpenedFile(form.session, form.form)
    signed = await direct.initiate_and_sign(services, profile, wanted)
    return OpenedFile(signed.session, signed.presigned)


async def find(services: Services, session_id: SessionOrId, key: str) -> Upload:
    """Return the upload of a session to exactly ``key``.

    Raises:
        NotFound: there is no such session, or its key is another one.
    """
    found = await sessions.find_upload(services, session_id)
    if found.session.upload_key != key:
        raise sessions.no_such_upload()
    return found


async def sign_parts(services: Services, found: Upload, part_numbers: Sequence[int]) -> dict[int, PresignedPart]:
    """Sign the PUTs of some parts, by their numbers, each once.

    Raises:
        InvalidArgument: there are more than 1000.
        InvalidPartNumber: the list is empty, or the upload does not have one of them.
    """
    wanted = list(dict.fromkeys(part_numbers))
    if len(wanted) > MAX_SIGNED_PARTS:
        raise InvalidArgument(
            f"one request signs at most {MAX_SIGNED_PARTS} parts",
            detail={"option": "partNumbers", "found": len(wanted), "max": MAX_SIGNED_PARTS},
        )
    _, signed = await multipart.sign_several(services, found, wanted)
    return {part.part_number: part for part in signed}


async def complete(services: Services, found: Upload, parts: Any) -> Upload:
    """Make the object from the client's list of parts, and verify it.

    Raises:
        InvalidMultipartParts: the list is missing; these clients always send one.
    """
    if parts is None:
        raise InvalidMultipartParts("parts must be a list of {PartNumber, ETag}")
    return await multipart.complete_found(services, found, parts)


async def location_of(services: Services, found: Upload) -> str:
    """Return the address of an object without a signature; its key where the store has no such address.

    Only a public object can be read there. Clients show it, or keep it as the name of the upload.
    """
    key = found.session.upload_key
    chosen = services.profile(found.asset.profile)
    storage = services.storage(chosen)
    offered = capabilities_of(storage)
    if chosen.delivery_policy().public and "public_url" in offered:
        return await storage.url(key, public=True)
    if "signed_url" not in offered:
        return key
    scheme, host, path, _, _ = urlsplit(await storage.url(key, expires_in=1))
    # Some stores sign by the path: what does not end in the key is not an address but a token.
    return urlunsplit((scheme, host, path, "", "")) if unquote(path).endswith(f"/{key}") else quote(key)


def metadata_text(metadata: Mapping[str, Any] | None) -> str | None:
    """Return a client's metadata as the row keeps them: compact JSON, at most 8192 characters; ``None`` for none.

    Raises:
        InvalidArgument: they are longer.
    """
    if not metadata:
        return None
    text = json.dumps(metadata, separators=(",", ":"))
    if len(text) > sessions.MAX_METADATA_CHARS:
        raise InvalidArgument(
            f"metadata have at most {sessions.MAX_METADATA_CHARS} characters as JSON",
            detail={"option": "metadata", "found": len(text), "max": sessions.MAX_METADATA_CHARS},
        )
    return text
