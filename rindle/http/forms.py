"""HTML forms with a file, read in the order of their parts: first the text fields, then the file piece by piece.

FastAPI and Starlette read a whole form, with its files on disk, before the endpoint runs. Here the endpoint has the
fields before any byte of the file is kept, so it can check the form's token and the caller's rights first::

    async with reading_form(request, max_bytes=MAX_BYTES) as form:
        check(form.fields.get("token"))
        asset = await rindle.upload(MemberPhoto, form.file(), filename=form.filename, actor=actor)

What a form may cost is limited: its body, its fields, and the pause between two pieces.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Collection, Generator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import FormData

from rindle.errors import InvalidArgument, UploadRejected, UploadStalled
from rindle.http.errors import limited
from rindle.rejections import rejected

#: Bytes of a form beside its file: boundaries, part headers and text fields.
FORM_OVERHEAD_BYTES = 64 * 1024
#: Largest number of text fields.
MAX_FORM_FIELDS = 32
#: Longest pause in seconds between two pieces of a body.
IDLE_SECONDS = 30.0

_MULTIPART, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"


def is_form(request: Request) -> bool:
    """Whether the body of ``request`` is an HTML form."""
    return _media_type(request) in (_MULTIPART, _URLENCODED)


async def arriving(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a request body as they arrive.

    Raises:
        UploadStalled: nothing arrived for 30 s.
        ClientDisconnect: the client has gone.
    """
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS) as waiting:
                    piece = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not waiting.expired():
                    raise
                raise UploadStalled(
                    "no bytes of this upload arrived for a while; send the file again",
                    detail={"limit_seconds": IDLE_SECONDS},
                ) from None
            if piece:
                yield piece


@asynccontextmanager
async def reading_form(
    request: Request, *, max_bytes: int, file_field: str = "file", before_file: Collection[str] = ()
) -> AsyncIterator[UploadForm]:
    """Yield the form of ``request``, read up to its file.

    Args:
        max_bytes: largest file; with 64 KiB for the rest, this also limits the whole body.
        file_field: name of the field with the file; an empty file input is no file.
        before_file: names of fields that must not come after the file.

    Raises:
        InvalidArgument: the body is no form, or cannot be read.
        UploadRejected: ``max_bytes_exceeded``.
        UploadStalled: nothing arrived for 30 s.
    """
    body = limited(request, max_bytes + FORM_OVERHEAD_BYTES)
    async with aclosing(arriving(body)) as pieces:
        form = UploadForm(pieces, max_bytes=max_bytes, file_field=file_field, before_file=before_file)
        await form.begin(request)
        yield form


class UploadForm:
    """A form whose text fields before the file are read; made by :func:`reading_form`.

    Attributes:
        fields: the text fields before the file; of several with one name the last.
        filename: the client's name of the file; ``None`` when the form brings no file.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], *, max_bytes: int, file_field: str, before_file: Collection[str]
    ) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._pieces = pieces
        self._max_bytes = max_bytes
        self._file_field = file_field
        self._before_file = frozenset(before_file)
        self._parser: MultipartParser | None = None
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        #: Name of the text field that is being read; ``None`` in any other part.
        self._field: str | None = None
        self._text = bytearray()
        self._text_bytes = 0
        self._count = 0
        self._is_in_file = self._is_ended = False
        self._file: deque[bytes] = deque()

    async def begin(self, request: Request) -> None:
        """Read the text fields up to the file; :func:`reading_form` calls it."""
        if _media_type(request) == _URLENCODED:
            await self._read_urlencoded()
            return
        _, options = parse_options_header(request.headers.get("content-type"))
        if _media_type(request) != _MULTIPART or not options.get(b"boundary"):
            raise _unreadable("it is not encoded as multipart/form-data")
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())
        except FormParserError as error:
            raise _unreadable("its boundary is invalid") from error
        while self.filename is None and await self._advance():
            pass

    async def file(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the file, and read the form to its end.

        Raises:
            InvalidArgument: the form ends early, or a field came after the file that must come before it.
            UploadRejected: ``max_bytes_exceeded``.
        """
        size = 0
        while True:
            while self._file:
                piece = self._file.popleft()
                size += len(piece)
                if size > self._max_bytes:
                    raise rejected(
                        UploadRejected,
                        "max_bytes_exceeded",
                        f"the file is larger than the limit of {self._max_bytes} bytes",
                        limit=self._max_bytes,
                    )
                yield piece
            if not await self._advance():
                return

    async def _advance(self) -> bool:
        """Parse the next piece of the body; ``False`` at the end of the form."""
        if self._is_ended or self._parser is None:
            return False
        piece = await anext(self._pieces, None)
        if piece is None:
            raise _unreadable("it is incomplete")
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _unreadable("it is malformed") from error
        return True

    async def _read_urlencoded(self) -> None:
        body = bytearray()
        async for piece in self._pieces:
            body += piece
            if len(body) > FORM_OVERHEAD_BYTES:
                raise _too_long()
        try:
            found = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
        except ValueError as error:
            raise _unreadable("it has too many fields") from error
        self.fields = dict(found)

    # --- callbacks of the parser -----------------------------------------------------------------------------------

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_comes,
            "on_header_value": self._value_comes,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data_comes,
            "on_part_end": self._part_ends,
            "on_end": self._form_ends,
        }

    def _part_begins(self) -> None:
        self._disposition, self._field, self._is_in_file = b"", None, False
        self._text.clear()

    def _header_comes(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _value_comes(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._count += 1
        if b"name" not in options or self._count > MAX_FORM_FIELDS + 1:
            raise _unreadable("a part has no name" if b"name" not in options else "it has too many fields")
        name = options[b"name"].decode(errors="replace")
        filename = options.get(b"filename")
        if filename:
            if self.filename is not None or name != self._file_field:
                raise _unreadable(f"it brings one file, in the field {self._file_field}")
            self.filename, self._is_in_file = filename.decode(errors="replace"), True
        elif filename is None:
            self._field = name
            if self.filename is not None and name in self._before_file:
                raise InvalidArgument(f"the field {name} must come before the file", detail={"option": name})

    def _data_comes(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._file.append(bytes(data[start:end]))
        elif self._field is not None:
            self._text_bytes += end - start
            if self._text_bytes > FORM_OVERHEAD_BYTES:
                raise _too_long()
            self._text += data[start:end]

    def _part_ends(self) -> None:
        if self._field is not None and self.filename is None:
            self.fields[self._field] = self._text.decode(errors="replace")

    def _form_ends(self) -> None:
        self._is_ended = True


class FormRequest(Request):
    """A request whose ``form()`` holds the fields that were read, for callables of the application."""

    def __init__(self, request: Request, form: UploadForm) -> None:
        super().__init__(request.scope, request.receive)
        self._fields = FormData(form.fields)

    def form(self, **limits: Any) -> _Fields:
        """Return the fields before the file, as ``Request.form`` does: with ``await`` or ``async with``."""
        return _Fields(self._fields)


class _Fields(AbstractAsyncContextManager[FormData, None], Awaitable[FormData]):
    def __init__(self, form: FormData) -> None:
        self._form = form

    def __await__(self) -> Generator[Any, None, FormData]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> FormData:
        return self._form

    async def __aexit__(self, *error: object) -> None:
        pass


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _unreadable(why: str) -> InvalidArgument:
    return InvalidArgument(f"the form cannot be read: {why}", detail={"option": "body"})


def _too_long() -> UploadRejected:
    return UploadRejected(
        f"the fields of the form have more than {FORM_OVERHEAD_BYTES} bytes",
        code="max_bytes_exceeded",
        detail={"limit": FORM_OVERHEAD_BYTES},
    )
