"""One request on its way through a verb of the protocol, and what every response says of an upload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import Response
from fastapi.responses import JSONResponse

from rindle.http.resumable.fields import Digest, Limits, boolean
from rindle.http.resumable.messages import (
    Problem,
    appended_headers,
    interim_progress,
    mismatching_digest,
    problem_of,
    takes_interim,
    whole_digest_headers,
)
from rindle.http.schemas import SessionJson
from rindle.http.streams.call import StreamCall
from rindle.states import SessionState
from rindle.uploads.digests import WholeDigest
from rindle.uploads.ietf import IetfUploads
from rindle.uploads.sessions import ended_error
from rindle.uploads.streams import MediaUploadSession, Stream, seconds_left

#: The ASGI extension of a server that sends interim responses, and the type of their messages.
INTERIM: Final = "rindle.http.interim"
#: Longest wait in seconds for the workflow after the last byte. The upload is complete in any case.
ASSEMBLY_SECONDS = 10.0


class Call(StreamCall[IetfUploads]):
    """A request of the draft, and what its responses say of the upload."""

    @property
    def limits(self) -> Limits:
        """The limits of an upload that does not exist yet."""
        return Limits(max_size=self.uploads.max_size)

    def limits_of(self, upload: MediaUploadSession) -> Limits:
        """Return the limits of an upload; an open one has an end."""
        return Limits(max_size=self.uploads.max_size, max_age=seconds_left(upload))

    async def inform(self, headers: Mapping[str, str]) -> None:
        """Send an interim response with status 104, if the client understands it and the server can send it."""
        if INTERIM in (self.request.scope.get("extensions") or {}) and takes_interim(self.request.headers):
            lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await self.send({"type": INTERIM, "status": 104, "headers": lines})

    async def inform_of_progress(self, offset: int) -> None:
        """Send an interim response with the offset that is stored."""
        await self.inform(interim_progress(offset))

    async def answer(self, stream: Stream) -> Response:
        """Return the response about the whole file, which the workflow has verified or refused by then, or will."""
        upload = (await self.uploads.settled(stream, timeout_seconds=ASSEMBLY_SECONDS)).session
        digest = WholeDigest.of(upload)
        if upload.state in (SessionState.FAILED, SessionState.ABORTED, SessionState.EXPIRED):
            error = ended_error(upload)
            if error.code == "digest_mismatch" and digest is not None and digest.expected is not None:
                given = Digest(digest.algorithm, digest.expected)
                return problem_response(mismatching_digest(error, "Repr-Digest", given, is_complete=True))
            problem = problem_of(error)
            return problem_response(
                Problem(problem.status, problem.body, {**problem.headers, "Upload-Complete": boolean(True)})
            )
        headers = appended_headers(offset=upload.last_known_offset, is_complete=True, found=self.limits_of(upload))
        return JSONResponse(
            {"session": SessionJson.of(upload).model_dump(mode="json")},
            headers={**headers, **whole_digest_headers(digest)},
        )


def problem_response(problem: Problem) -> Response:
    """Return a problem as a response."""
    return JSONResponse(
        dict(problem.body), problem.status, dict(problem.headers), media_type="application/problem+json"
    )
