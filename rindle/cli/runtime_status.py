"""``rindle runtime-status``: what is stuck or degraded right now?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import say, say_counts, say_json
from rindle.errors import InspectionFailed, SetupIncomplete
from rindle.operations.runtime_status import DEFAULT_LIMIT, MAX_LIMIT, REMEDIES

#: Exit code of ``--fail-on``.
FOUND = 3
_SECTIONS = ("runtime_checks", "variants", "upload_sessions", "purges")


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
    filters = {"profile": profile, "older_than": older_than, "limit": limit, "format": output}
    try:
        report = run(application, lambda rindle: rindle.runtime_status(**filters))
    except (InspectionFailed, SetupIncomplete) as error:
        if output == "text":
            raise
        component = error.detail.get("component")
        say_json(
            {"status": "error", "classification": error.code, "component": component, "next_action": "rindle doctor"}
        )
        raise click.exceptions.Exit(4 if isinstance(error, InspectionFailed) else 1) from error
    if output == "json":
        say_json(report)
    else:
        _say(report)
    found = {finding["class"] for section in _SECTIONS for finding in report[section]["findings"]}
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


def _say(report: Mapping[str, Any]) -> None:
    say(f"Runtime status at {report['generated_at']}", "bold")
    for section in ("assets", "variants", "upload_sessions"):
        say(section)
        say_counts(report[section]["counts"])
    say("outbox")
    say_counts(report["outbox"])
    say("purges")
    say_counts({name: report["purges"][name] for name in ("pending", "oldest_age_seconds")})
    temporal = report["temporal"]
    say("temporal")
    say_counts({"reachable": str(temporal["reachable"]).lower(), "verified": str(temporal["verified"]).lower()})
    say_counts({f"running {kind}": count for kind, count in temporal["running"].items()})
    say("findings")
    findings = [finding for section in _SECTIONS for finding in report[section]["findings"]]
    for finding in findings:
        note = " (unverified: Temporal did not answer)" if "reason" in finding else ""
        name = f"{finding['class']} {finding['state']}" if "state" in finding else finding["class"]
        say(f"  {name}:  {finding['count']}, oldest {finding['oldest_age_seconds']} s{note}", "yellow")
        for sample in finding["samples"]:
            say("    - " + " ".join(f"{name}={value}" for name, value in sample.items() if value is not None))
    if not findings:
        say("  none", "green")
    for advice in report["recommendations"]:
        say(f"  Fix {advice['class']}: {advice['surface']} ({advice['summary']})")
    say("Done.")
