"""Find the application that a command operates on."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rindle.errors import Misconfigured

if TYPE_CHECKING:
    from rindle.app import Rindle

T = TypeVar("T")

#: Environment variable that names the application when ``--app`` does not.
APP_VARIABLE = "RINDLE_APP"

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
        Misconfigured: none is named, the reference is malformed, the module does not import, or it has no such object.
            The message names the problem and never repeats the text of the module's own exception.
    """
    reference = reference or os.environ.get(APP_VARIABLE)
    if not reference:
        raise _misnamed("no application is named")
    module_name, colon, path = reference.partition(":")
    if not colon or not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise _misnamed(f"{reference!r} does not name an application")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = _imported(module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise _misnamed(f"the module {module_name!r} has no {path!r}")
        found = getattr(found, part)
    return _instance(found, reference)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _misnamed(f"the module {name!r} was not found") from error
        raise _misnamed(f"the module {name!r} needs {error.name!r}, which is not installed") from error
    except Exception as error:
        raise _misnamed(f"the module {name!r} raised {_summary_of(error)} while it was imported") from error


def _instance(found: Any, reference: str) -> Rindle:
    from rindle.app import Rindle

    if callable(found) and not isinstance(found, Rindle):
        try:
            found = found()
        except Exception as error:
            raise _misnamed(f"{reference!r} raised {_summary_of(error)} when it was called") from error
    if not isinstance(found, Rindle):
        raise _misnamed(
            f"{reference!r} is of type {type(found).__name__}; it must be a Rindle or a function that returns one"
        )
    return found


def _summary_of(error: Exception) -> str:
    """Return the class, file and line of an exception, not its text, which may hold a password."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _misnamed(problem: str) -> Misconfigured:
    return Misconfigured(
        f"{problem}. To fix: 1. pass --app package.module:name, or set {APP_VARIABLE}; 2. name the Rindle object of "
        "your application, or a function without arguments that returns it; 3. run where it can be imported from"
    )
