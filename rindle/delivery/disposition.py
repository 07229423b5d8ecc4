"""``Content-Disposition`` of a delivered object: pure functions, no rows and no stores.

Source: RFC 6266 (the header), RFC 8187, formerly RFC 5987 (``filename*``).
"""

from __future__ import annotations

from urllib.parse import quote

from rindle.security import display_name, is_inline_safe, sanitize_filename

#: Name of an inline object without a file name.
INLINE_FILENAME = "download"
# attr-char of RFC 8187 section 3.2.1 beyond letters, digits and "-._~", which ``quote`` keeps anyway.
_ATTR_CHARS = "!#$&+^`|"


def content_disposition(
    disposition: str | None, filename: str | None, *, default_filename: str, content_type: str | None
) -> str | None:
    """Return the header of an object, or ``None`` for no header at all.

    Without options there is no header. Otherwise the type is ``attachment`` for ``"attachment"`` and ``inline`` for
    anything else. Content that is not safe to show inline is always an attachment, also without options.

    Args:
        disposition: ``"attachment"``, ``"inline"`` or ``None``.
        filename: requested name; any characters, any length.
        default_filename: name of an attachment without one.
        content_type: type of the response; an unknown type (``None``) forces no attachment.

    Returns:
        For ``../my clip?.mp4``: ``attachment; filename="my_clip_.mp4"; filename*=UTF-8''my%20clip%3F.mp4``. Always
        printable ASCII.
    """
    forced = content_type is not None and not is_inline_safe(content_type)
    if disposition is None and filename is None and not forced:
        return None
    if disposition == "attachment" or forced:
        kind, name = "attachment", filename or default_filename
    else:
        kind, name = "inline", filename or INLINE_FILENAME
    extended = quote(display_name(name), safe=_ATTR_CHARS)
    return f"{kind}; filename=\"{sanitize_filename(name)}\"; filename*=UTF-8''{extended}"
