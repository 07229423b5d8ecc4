"""The extras of this package: which packages each one installs, and the error when one of them is missing.

Modules that need an extra import its packages inside ``with requires("http"):``. Messages name the command of
:func:`install_command`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType

from rindle.errors import MissingExtra

#: Import names of the packages that each extra installs, also of those that come with them and that we import.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "av": ("ffmpeg",),
    "cli": ("click", "rich"),
    "gcs": ("cryptography", "google.auth", "google.cloud", "google_crc32c", "requests"),
    "http": ("fastapi", "jinja2", "python_multipart", "sse_starlette", "starlette", "uvicorn"),
    "images": ("pebble", "pi_heif", "pyvips"),
    "mux": ("cryptography", "jwt", "mux_python", "urllib3"),
    "otel": ("opentelemetry",),
    "postgres": ("psycopg", "psycopg_pool"),
    "s3": ("boto3", "botocore"),
    "sqlite": ("aiosqlite",),
}


def install_command(extra: str) -> str:
    """Return the command that installs ``extra``."""
    return f'pip install "rindle[{extra}]"'


def extra_of(package: str | None) -> str | None:
    """Return an extra that installs a package or module, or ``None``: ``boto3.session`` belongs to ``s3``."""
    return next((extra for extra in EXTRAS if _installs(extra, package)), None)


def missing_extra(error: ImportError) -> MissingExtra | None:
    """Return the error to raise instead of ``error``; ``None`` when no extra installs what is missing."""
    extra = extra_of(error.name)
    if not isinstance(error, ModuleNotFoundError) or error.name is None or extra is None:
        return None
    return _missing(extra, error.name)


def requires(extra: str) -> AbstractContextManager[None]:
    """Return a block for imports of the packages of ``extra``.

    Raises:
        MissingExtra: on leaving the block, instead of the ``ModuleNotFoundError`` of such a package.
    """
    return _Requires(extra)


def require(extra: str, *packages: str) -> None:
    """Check that packages of ``extra`` can be found, without importing them.

    Raises:
        MissingExtra: one of them is not installed.
    """
    for package in packages or EXTRAS[extra]:
        if importlib.util.find_spec(package) is None:
            raise _missing(extra, package)


def _installs(extra: str, module: str | None) -> bool:
    return any(name in EXTRAS[extra] for name in _names(module or ""))


def _names(module: str) -> Iterator[str]:
    """Yield the name of a module and those of the packages that it is in."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def _missing(extra: str, module: str) -> MissingExtra:
    package = module.partition(".")[0]
    error = MissingExtra(
        f"the package {package} is not installed. To fix: {install_command(extra)}",
        detail={"extra": extra, "package": package},
    )
    error.name = module
    return error


class _Requires(AbstractContextManager[None]):
    """A class and not a generator function, so that the traceback of the error has no frames of ``contextlib``."""

    def __init__(self, extra: str) -> None:
        self._extra = extra

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ModuleNotFoundError) and error.name and _installs(self._extra, error.name):
            raise _missing(self._extra, error.name) from None
