"""Import what ``package.module:name`` names, and explain what is wrong when that fails.

An exception of the user's module is shown like an uncaught one, with a traceback. The frames of the import system and
of this library are left out: the last frame is in the user's code. Credentials in it are redacted.
"""

from __future__ import annotations

import difflib
import importlib
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import rindle
from rindle.errors import ApplicationNotLoaded, RindleError
from rindle.extras import extra_of, install_command
from rindle.security import scrub

#: Directories of code that is not the user's.
_LIBRARIES = tuple(
    {
        str(Path(directory).resolve()) + os.sep
        for directory in (
            *(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
            str(Path(rindle.__file__).parent),
        )
    }
)


def load_object(reference: str, example: str) -> Any:
    """Import the module of ``package.module:name`` and return the object; ``name`` may have dots.

    The working directory is importable, as it is for ``python -m``.

    Args:
        reference: names the object.
        example: how the user names one, for messages: ``--app media:rindle``.

    Raises:
        ApplicationNotLoaded: the reference is malformed, the module cannot be imported, or it has no such object.
    """
    module_name, colon, path = reference.partition(":")
    if not colon or not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise _not_loaded(
            f"{reference!r} does not name an object of a module", f"write package.module:name, as in {example}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _imported(module_name)
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            if getattr(module, "__file__", None) is None:
                raise not_found(module_name) from None  # a directory of that name, which is not a package
            similar = difflib.get_close_matches(path, [name for name in vars(module) if not name.startswith("_")], 1)
            fix = f"name an object of that module, as in {example}"
            raise _not_loaded(
                f"the module {module_name!r} has no {path!r}",
                f"use {module_name}:{similar[0]}" if similar else fix,
            ) from None
    return found


def called(factory: Callable[[], Any], reference: str) -> Any:
    """Return ``factory()``.

    Raises:
        ApplicationNotLoaded: it raised an exception.
    """
    try:
        return factory()
    except Exception as error:
        module = reference.partition(":")[0]
        problem, fix = _cause_of(error, f"{reference!r} raised {type(error).__name__} when it was called")
        raise _not_loaded(problem, fix, module) from error


def not_found(module: str) -> ApplicationNotLoaded:
    """Return the error for a module that cannot be found."""
    top = module.partition(".")[0]
    return _not_loaded(
        f"the module {module!r} was not found",
        f"run the command in the directory that contains {top!r}, or add that directory to PYTHONPATH",
    )


def traceback_of(error: BaseException) -> str | None:
    """Return the traceback of the user's exception, ending in the user's code; ``None`` when there is none.

    Credentials are redacted.
    """
    cause = error.__cause__
    if not isinstance(error, ApplicationNotLoaded) or cause is None:
        return None
    formatted = traceback.TracebackException.from_exception(cause)
    _keep_own_frames(formatted, cause, error.detail["module"].partition(".")[0])
    return scrub("".join(formatted.format()))


def report_of(error: RindleError) -> str:
    """Return what a program prints about ``error``: ``code: message``, after the traceback of the user's exception."""
    trace = traceback_of(error) or ""
    if trace.rstrip().endswith(error.message):  # an error of ours; it is not printed twice
        return trace
    return f"{trace}{error.code}: {error.message}\n"


# --- what is wrong -------------------------------------------------------------------------------------------------


def _not_loaded(problem: str, fix: str | None, module: str | None = None) -> ApplicationNotLoaded:
    message = problem if fix is None else f"{problem}. To fix: {fix}"
    return ApplicationNotLoaded(message, detail={} if module is None else {"module": module})


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise not_found(error.name) from None
        problem, fix = _cause_of(error, f"the module {name!r} raised {type(error).__name__} while it was imported")
        raise _not_loaded(problem, fix, name) from error


def _cause_of(error: Exception, otherwise: str) -> tuple[str, str | None]:
    """Return the problem and its fix; ``otherwise`` is the problem when the exception is not a known one."""
    if isinstance(error, RindleError):
        return error.message, error.action
    if (variable := _unset_variable(error)) is not None:
        return (
            f"the environment variable {variable} is not set",
            f"set it for this command, for example with: export {variable}=...",
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = extra_of(error.name)
        top = error.name.partition(".")[0]
        fix = (
            "install the package that contains it in this Python environment; if it is your own module, run the "
            f"command in the directory that contains {top!r}, or add that directory to PYTHONPATH"
        )
        return f"the module {error.name!r} was not found", fix if extra is None else install_command(extra)
    return otherwise, "correct the error that the traceback shows"


def _unset_variable(error: Exception) -> str | None:
    """Return the name of the environment variable whose absence raised ``error``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not isinstance(error, KeyError) or not frames or frames[-1].f_globals.get("__name__") != "os":
        return None
    return str(error.args[0])


# --- the traceback -------------------------------------------------------------------------------------------------


def _keep_own_frames(formatted: traceback.TracebackException, error: BaseException, package: str) -> None:
    """Remove the frames outside the user's code: those before its first frame and those after its last one.

    An exception without a frame of the user's code keeps those of other libraries. Causes are treated alike.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [number for number, frame in enumerate(frames) if _is_own(frame, package)]
    kept: Iterable[int]
    if own:
        kept = [number for number in range(own[0], own[-1] + 1) if not _is_import(frames[number])]
    else:
        kept = [number for number, frame in enumerate(frames) if not _is_import(frame)]
    formatted.stack[:] = [formatted.stack[number] for number in kept]
    for part, cause in ((formatted.__cause__, error.__cause__), (formatted.__context__, error.__context__)):
        if part is not None and cause is not None:
            _keep_own_frames(part, cause, package)


def _is_own(frame: FrameType, package: str) -> bool:
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
        return True  # also when the application is an installed package
    name = frame.f_code.co_filename
    return not name.startswith("<") and not str(Path(name).resolve()).startswith(_LIBRARIES)


def _is_import(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name == __name__ or name.partition(".")[0] == "importlib"
