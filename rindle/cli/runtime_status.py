"""``rindle runtime-status``: what is stuck or degraded right now?"""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import say, say_counts, say_json
from rindle.errors import InspectionFailed, SetupIncomplete
from rindle.instants import iso_instant
from rindle.operations.findings import DEFAULT_LIMIT, Finding
from rindle.operations.remedies import REMEDIES
from rindle.operations.runtime_status import MAX_LIMIT, RuntimeStatus

#: Exit code of ``--fail-on``.
FOUND = 3


@click.command(name="runtime-status")
@application_option
@click.option("--profile", help="Only this profile.")
@click.option(
    "--older-than-sec", "older_than", type=click.IntRange(min=0), help="Only what has not changed for so long."
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="Samples per finding."
)
@click.option("--fail-on", metavar="CLASS,..|any", help="Exit with 3 when one of these findings is there.")
@format_option
def runtime_status(
    application: str | None, profile: str | None, older_than: int | None, limit: int, fail_on: str | None, output: str
) -> None:
    """Report stuck work with the command that repairs it; exit 0 also with findings."""
    alarming = _classes(fail_on)
    try:
        report = run(
            application,
            lambda rindle: rindle.runtime_status(profile=profile, older_than=older_than, limit=limit, format=output),
        )
    except (InspectionFailed, SetupIncomplete) as error:
        if output == "text":
            raise
        component = error.detail.get("component")
        say_json(
            {"status": "error", "classification": error.code, "component": component, "next_action": "rindle doctor"}
        )
        raise click.exceptions.Exit(4 if isinstance(error, InspectionFailed) else 1) from error
    if output == "json":
        say_json(report.to_dict())
    else:
        _say(report)
    found = {finding.name for finding in report.findings}
    raise click.exceptions.Exit(FOUND if found & alarming else 0)


def _classes(given: str | None) -> set[str]:
    if given is None:
        return set()
    if given == "any":
        return set(REMEDIES)
    asked = {part.strip() for part in given.split(",") if part.strip()}
    if unknown := sorted(asked - set(REMEDIES)):
        raise click.UsageError(f"no finding is called {', '.join(unknown)}; there are {', '.join(REMEDIES)}")
    return asked


def _say(report: RuntimeStatus) -> None:
    say(f"Runtime status at {iso_instant(report.generated_at)}", "bold")
    counts = {"assets": report.assets, "variants": report.variants, "upload_sessions": report.upload_sessions}
    for section, rows in counts.items():
        say(section)
        say_counts(rows.counts)
    say("outbox")
    say_counts(report.outbox.to_dict())
    say("purges")
    say_counts({"pending": report.purges.pending, "oldest_age_seconds": report.purges.oldest_age_seconds})
    temporal = report.temporal
    say("temporal")
    say_counts({"reachable": str(temporal.reachable).lower(), "verified": str(temporal.verified).lower()})
    say_counts({f"running {kind}": count for kind, count in temporal.running.items()})
    say("findings")
    for finding in report.findings:
        _say_finding(finding)
    if not report.findings:
        say("  none", "green")
    for advice in report.recommendations:
        say(f"  Fix {advice.name}: {advice.surface} ({advice.summary})")
    say("Done.")


def _say_finding(finding: Finding) -> None:
    note = "" if finding.reason is None else " (unverified: Temporal did not answer)"
    name = finding.name if finding.state is None else f"{finding.name} {finding.state}"
    say(f"  {name}:  {finding.count}, oldest {finding.oldest_age_seconds} s{note}", "yellow")
    for sample in finding.samples:
        say("    - " + " ".join(f"{key}={value}" for key, value in sample.to_dict().items() if value is not None))
