"""Find the application that a command operates on."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from rindle.cli.loading import called, load_object
from rindle.errors import ApplicationNotLoaded, Misconfigured

if TYPE_CHECKING:
    from rindle.app import Rindle

T = TypeVar("T")

#: Environment variable that names the application when ``--app`` does not.
APP_VARIABLE = "RINDLE_APP"
#: How messages show that it is named.
_EXAMPLE = "--app media:rindle"

#: Option of every command that operates on an application.
application_option = click.option(
    "--app",
    "application",
    metavar="MODULE:NAME",
    help=f"The application's Rindle object; {APP_VARIABLE} when left out.",
)
#: Option of every command that reports something.
format_option = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="What to print."
)


def run(application: str | None, work: Callable[[Rindle], Awaitable[T]]) -> T:
    """Run ``work`` with the application on a new event loop, and close everything afterwards.

    The relay is not started: the workers send what a command writes to the outbox.
    """
    rindle = load_application(application)

    async def with_rindle() -> T:
        try:
            return await work(rindle)
        finally:
            await rindle.close()
            await rindle.database.dispose()

    return asyncio.run(with_rindle())


def load_application(reference: str | None = None) -> Rindle:
    """Import the application's :class:`~rindle.app.Rindle` object.

    The working directory is importable, as it is for ``python -m``.

    Args:
        reference: ``package.module:name``, where ``name`` (dots allowed) is a ``Rindle`` or a function without
            arguments that returns one; ``RINDLE_APP`` when left out.

    Raises:
        Misconfigured: none is named.
        ApplicationNotLoaded: the reference is malformed, the module does not import, or it has no such object. The
            message names the problem; :func:`rindle.cli.loading.traceback_of` returns the traceback.
    """
    reference = reference or os.environ.get(APP_VARIABLE)
    if not reference:
        raise Misconfigured(
            f"no application is named. To fix: pass --app package.module:name, or set {APP_VARIABLE}, to the Rindle "
            "object of your application"
        )
    found = load_object(reference, _EXAMPLE)
    if inspect.iscoroutinefunction(found):
        raise _no_rindle(reference, "an async function")
    if callable(found) and not isinstance(found, _rindle_class()):
        found = called(found, reference)
    if not isinstance(found, _rindle_class()):
        raise _no_rindle(reference, f"of type {type(found).__name__}")
    return found


def _rindle_class() -> type[Rindle]:
    from rindle.app import Rindle

    return Rindle


def _no_rindle(reference: str, found: str) -> ApplicationNotLoaded:
    module = reference.partition(":")[0]
    objects = vars(sys.modules[module]).items()
    known = [f"{module}:{name}" for name, value in objects if isinstance(value, _rindle_class())]
    fix = f"use {' or '.join(known)}" if known else f"name the Rindle object of your application, as in {_EXAMPLE}"
    return ApplicationNotLoaded(
        f"{reference!r} is {found}; it must be a Rindle or a function that returns one. To fix: {fix}"
    )
