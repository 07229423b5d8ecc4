"""Integrations with frameworks, one module each; like ``rindle.http``, they contain no rules of their own.

Nothing is imported here: each module needs the framework in its name.
"""

from __future__ import annotations
