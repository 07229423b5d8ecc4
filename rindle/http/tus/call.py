"""One request on its way through a verb of the protocol."""

from __future__ import annotations

from fastapi import Response

from rindle.errors import Unauthorized
from rindle.http.streams.call import StreamCall
from rindle.http.tus.headers import http_date
from rindle.states import SessionState
from rindle.uploads.streams import FINAL, OPEN, PARTIAL, MediaUploadSession, Stream
from rindle.uploads.tus import TusUploads, source_ids


class TusCall(StreamCall[TusUploads]):
    """A request of tus; ``method`` is the one after ``X-HTTP-Method-Override``."""

    async def allow_resuming(self, found: Stream) -> None:
        """Return if the actor may continue an upload.

        Raises:
            Unauthorized: the authorizer denies, with status 401 as the clients of the protocol expect.
        """
        try:
            await super().allow_resuming(found)
        except Unauthorized as error:
            error.http_status = 401
            raise

    def concat(self, upload: MediaUploadSession) -> str | None:
        """Return ``Upload-Concat`` as it was received; the tokens are signed again, since no row keeps them."""
        if upload.concat_role == PARTIAL:
            return "partial"
        if upload.concat_role != FINAL:
            return None
        tokens = {one: self.uploads.token_of(one, upload.actor) for one in source_ids(upload)}
        return "final;" + " ".join(one["prefix"] + tokens[one["session_id"]] for one in upload.concat_sources)


def expiry(upload: MediaUploadSession) -> dict[str, str]:
    """Return ``Upload-Expires`` of an upload that expires."""
    waits = upload.state in OPEN or (upload.concat_role == PARTIAL and upload.state == SessionState.UPLOADED)
    return {"Upload-Expires": http_date(upload.expires_at)} if waits else {}


def done(headers: dict[str, str]) -> Response:
    """Return the response to a request that succeeded without a body."""
    return Response(status_code=204, headers=headers)
