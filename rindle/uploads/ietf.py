"""Resumable Uploads for HTTP without HTTP: what they have beside the common rules of :mod:`rindle.uploads.streams`.

The protocol itself is in :mod:`rindle.http.resumable`.

Source: draft-ietf-httpbis-resumable-upload.
"""

from __future__ import annotations

from rindle.db.streams import IETF, Stream
from rindle.uploads.streams import NoBody, StreamUploads


class IetfUploads(StreamUploads):
    """The uploads of one profile; see :class:`rindle.uploads.streams.StreamUploads`.

    The length does not end an upload: the last request says that it is the last.
    """

    protocol = IETF
    ends_by_length = False

    async def end(self, stream: Stream) -> Stream:
        """Complete an upload whose length nobody has declared, with the bytes that it has.

        Raises:
            TusError: as :meth:`append`.
        """
        offset = stream.session.last_known_offset
        return await self.append(stream, NoBody(), offset=offset, declared_length=offset)
