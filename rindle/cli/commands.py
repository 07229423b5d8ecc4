"""All commands, their exit codes, and how errors are printed."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from rindle.cli.abort_incomplete_uploads import abort_incomplete_uploads
from rindle.cli.backfill_metadata import backfill_metadata
from rindle.cli.cancel import cancel
from rindle.cli.cleanup_orphans import cleanup_orphans
from rindle.cli.database import database, migrate
from rindle.cli.dev import dev
from rindle.cli.doctor import doctor
from rindle.cli.erase_owners import erase_owners
from rindle.cli.erasure_certificate import erasure_certificate
from rindle.cli.explain import explain
from rindle.cli.force_delete import force_delete
from rindle.cli.loading import report_of
from rindle.cli.outbox import outbox
from rindle.cli.provider_sync import provider_sync
from rindle.cli.purge import purge
from rindle.cli.regenerate_variants import regenerate_variants
from rindle.cli.release_quarantine import release_quarantine
from rindle.cli.reprobe import reprobe
from rindle.cli.requeue import requeue
from rindle.cli.resume import resume
from rindle.cli.retention import retention
from rindle.cli.runtime_status import runtime_status
from rindle.cli.schedules import schedules
from rindle.cli.setup import setup
from rindle.cli.sweep_temp_files import sweep_temp_files
from rindle.cli.timeline import timeline
from rindle.cli.verify_storage import verify_storage
from rindle.cli.workflows import workflows
from rindle.errors import InspectionFailed, RindleError, TemporalUnavailable
from rindle.process import leave
from rindle.security import RedactingFilter

#: Exit codes beside 0: finished with errors or refused; wrong usage; Temporal or database unreachable; interrupted.
FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 4, 130


@click.group(name="rindle", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rindle")
def rindle() -> None:
    """Operate Rindle: inspect it, repair it, run it.

    --app package.module:name or RINDLE_APP names the application. Exit codes: 0 done, 1 finished with errors or
    refused, 2 wrong usage, 3 --fail-on, 4 Temporal or database unreachable, 130 interrupted.
    """


for command in (
    abort_incomplete_uploads,
    backfill_metadata,
    cancel,
    cleanup_orphans,
    database,
    dev,
    doctor,
    erase_owners,
    erasure_certificate,
    explain,
    force_delete,
    migrate,
    outbox,
    provider_sync,
    purge,
    regenerate_variants,
    release_quarantine,
    reprobe,
    requeue,
    resume,
    retention,
    runtime_status,
    schedules,
    setup,
    sweep_temp_files,
    timeline,
    verify_storage,
    workflows,
):
    rindle.add_command(command)
rindle.add_command(erase_owners, "batch-owner-erasure")  # its name in the original


class PlainFormatter(logging.Formatter):
    """One line for each record, without tracebacks: the class of an exception only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        error = record.exc_info[0] if record.exc_info else None
        text = " ".join(record.getMessage().split())
        return f"{record.levelname} {record.name}: {text}{f' ({error.__name__})' if error else ''}"


def _report_unraisable(found: sys.UnraisableHookArgs) -> None:
    """Log an exception that nobody can receive, such as that of a driver's clean-up, by its class."""
    logging.getLogger("rindle.cli").debug("%s while something was cleaned up", found.exc_type.__name__)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave the process with its exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RedactingFilter())
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.unraisablehook = _report_unraisable
    # For every command, also one that opened no client: the exit code must not depend on what was imported.
    leave(execute(arguments))


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors go to standard error, without a secret.

    Only an exception of the application's module, while it is imported, is shown with a traceback.
    """
    try:
        code = rindle.main(arguments, prog_name="rindle", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except RindleError as error:
        click.echo(report_of(error), err=True, nl=False)
        return UNREACHABLE if isinstance(error, InspectionFailed | TemporalUnavailable) else FAILED
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, SQLAlchemyError):
        # Its text holds statements, parameters and hosts.
        click.echo(f"the database cannot be used ({type(error).__name__}); check it with: rindle doctor", err=True)
        return UNREACHABLE
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    click.echo(f"unexpected {type(error).__name__} ({place})", err=True)
    return FAILED
