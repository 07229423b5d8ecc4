"""Resumable Uploads for HTTP (IETF draft, interop version 8): the protocol, without an upload or a store.

``fields`` reads and writes the header fields, ``messages`` the requests and responses that are made of them. They know
nothing of the bytes of an upload.

Source: draft-ietf-httpbis-resumable-upload, RFC 9530 (digests), RFC 9651 (structured fields), RFC 9457 (problems).
"""
