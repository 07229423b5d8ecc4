"""Glue for frameworks, one module each: an entry point like ``rindle.http``, which translates and decides nothing.

Nothing is imported here: each module needs the framework that it is named after.
"""

from __future__ import annotations
