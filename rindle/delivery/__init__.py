"""Delivery of media: authorization, URLs, response headers, markup.

Nothing here moves bytes or accesses a store: URLs are made from rows and signed locally.
"""

from __future__ import annotations
