"""``rindle runtime-status``: report stuck or degraded work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_counts, print_json, print_line
from rindle.errors import InspectionFailed, SetupIncomplete
from rindle.instants import iso_instant
from rindle.operations.findings import DEFAULT_LIMIT, Finding
from rindle.operations.remedies import REMEDIES
from rindle.operations.runtime_status import MAX_LIMIT, RuntimeStatus

if TYPE_CHECKING:
    from rindle.app import Rindle

#: Exit code of ``--fail-on``.
FOUND = 3


@click.command(name="runtime-status")
@application_option
@click.option("--profile", help="Only this profile.")
@click.option(
    "--older-than-sec",
    "older_than",
    type=click.IntRange(min=0),
    help="Only findings unchanged for at least this many seconds.",
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="Samples per finding."
)
@click.option(
    "--provider-stuck",
    is_flag=True,
    help="Also assets that have not changed at their streaming provider for two hours, or --older-than-sec.",
)
@click.option(
    "--fail-on",
    metavar="CLASS,..|alert|any",
    help="Exit with 3 when one of these findings is present; alert: those for which users wait.",
)
@format_option
def runtime_status(
    application: str | None,
    profile: str | None,
    older_than: int | None,
    limit: int,
    provider_stuck: bool,
    fail_on: str | None,
    output: str,
) -> None:
    """Report stuck work and the command that repairs it; exit 0 even with findings."""
    alarming = _classes(fail_on)

    async def reported(rindle: Rindle) -> tuple[RuntimeStatus, str]:
        report = await rindle.runtime_status(
            profile=profile, older_than=older_than, limit=limit, format=output, provider_stuck=provider_stuck
        )
        return report, rindle.temporal.label

    try:
        report, temporal = run(application, reported)
    except (InspectionFailed, SetupIncomplete) as error:
        if output == "text":
            raise
        component = error.detail.get("component")
        print_json(
            {"status": "error", "classification": error.code, "component": component, "next_action": "rindle doctor"}
        )
        raise click.exceptions.Exit(4 if isinstance(error, InspectionFailed) else 1) from error
    if output == "json":
        print_json(report.to_dict())
    else:
        _print(report, temporal)
    found = {finding.name for finding in report.findings}
    raise click.exceptions.Exit(FOUND if found & alarming else 0)


def _classes(given: str | None) -> set[str]:
    if given is None:
        return set()
    groups = {"any": set(REMEDIES), "alert": {name for name, remedy in REMEDIES.items() if remedy.is_alert}}
    requested: set[str] = set()
    for part in given.split(","):
        requested |= groups.get(part.strip(), {part.strip()} - {""})
    if unknown := sorted(requested - set(REMEDIES)):
        raise click.UsageError(f"unknown finding {', '.join(unknown)}; choose from {', '.join(REMEDIES)}")
    return requested


def _print(report: RuntimeStatus, label: str) -> None:
    print_line(f"Runtime status at {iso_instant(report.generated_at)}", "bold")
    counts = {
        "assets": report.assets,
        "variants": report.variants,
        "upload_sessions": report.upload_sessions,
        "provider_assets": report.provider_assets,
    }
    for section, rows in counts.items():
        print_line(section)
        print_counts(rows.counts)
    print_line("outbox")
    print_counts(report.outbox.to_dict())
    print_line("purges")
    print_counts({"pending": report.purges.pending, "oldest_age_seconds": report.purges.oldest_age_seconds})
    print_line("erasures")
    print_counts({"pending": report.erasures.pending, "oldest_age_seconds": report.erasures.oldest_age_seconds})
    temporal = report.temporal
    print_line("temporal")
    print_counts({"reachable": str(temporal.reachable).lower(), "verified": str(temporal.verified).lower()})
    if not temporal.reachable:
        print_line(f"  no answer from {label}", "yellow")
    print_counts({f"running {kind}": count for kind, count in temporal.running.items()})
    print_line("findings")
    for finding in report.findings:
        _print_finding(finding)
    if not report.findings:
        print_line("  none", "green")
    for advice in report.recommendations:
        print_line(f"  Fix {advice.name}: {advice.surface} ({advice.summary})")
    print_line("Done.")


def _print_finding(finding: Finding) -> None:
    note = "" if finding.reason is None else " (unverified: Temporal did not answer)"
    name = finding.name if finding.state is None else f"{finding.name} {finding.state}"
    print_line(f"  {name}:  {finding.count}, oldest {finding.oldest_age_seconds} s{note}", "yellow")
    for sample in finding.samples:
        facts = {key: value for key, value in sample.to_dict().items() if value is not None}
        print_line("    - " + " ".join(f"{key}={value}" for key, value in facts.items()))
