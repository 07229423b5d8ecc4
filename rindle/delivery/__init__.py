"""Handing out media: who may have it, under which URL, with which headers, in which markup.

Nothing here moves bytes or touches a store: URLs are made from rows and signed locally.
"""

from __future__ import annotations
