"""``rindle erasure-certificate``: the evidence of an erasure, as text, JSON or a page."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, run
from rindle.cli.terminal import print_counts, print_json, print_line


@click.command(name="erasure-certificate")
@click.argument("operation")
@application_option
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "html"]),
    default="text",
    show_default=True,
    help="What to print; html is a page for people.",
)
def erasure_certificate(operation: str, application: str | None, output: str) -> None:
    """Show when each object of the erasure OPERATION was deleted and found absent; exit 1 while it is pending."""
    certificate = run(application, lambda rindle: rindle.erasure_certificate(operation))
    if output == "json":
        print_json(certificate.to_dict())
    elif output == "html":
        click.echo(certificate.to_html(), nl=False)
    else:
        print_line(f"Erasure {certificate.operation_id}", "bold")
        print_line(f"  {certificate.statement}")
        print_counts({"status": certificate.status, **certificate.counts})
        print_line("Done.")
    raise click.exceptions.Exit(int(certificate.status == "pending"))
