"""``rindle provider-sync``: reconcile assets with their streaming providers."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.application import run
from rindle.cli.sweeping import run_sweep, sweep_options
from rindle.cli.terminal import print_report
from rindle.operations.maintenance.provider_sync import ProviderSync, ProviderSyncOptions, provider_retry


@click.command(name="provider-sync")
@click.argument("asset", required=False)
@sweep_options(destructive=False)
@click.option("--profile", help="Only this profile.")
@click.option("--retry", is_flag=True, help="Give the errored ASSET to its provider once more.")
def provider_sync(asset: str | None, profile: str | None, retry: bool, **how: Any) -> None:
    """Read what streaming providers have of the assets that no workflow follows, and finish deletions there.

    A schedule does it every 10 minutes. ASSET is examined whatever its state.
    """
    if not retry:
        run_sweep(ProviderSync(), ProviderSyncOptions(profile=profile, asset_id=asset), **how)
    if asset is None:
        raise click.UsageError("--retry needs the ASSET that is given to its provider once more")
    if profile is not None or how["detach"] or how["local"]:
        raise click.UsageError("--retry is combined with no other option")
    asset_id = asset
    report = run(how["application"], lambda rindle: provider_retry(rindle.services, asset_id))
    print_report(f"Retry of {asset_id}", report.to_dict(), how["output"])
