"""The verbs that look at a run: its report, how far it is, whether it can start."""

from pathlib import Path
from typing import Annotated

import typer

from virnuc_rules.cli.settings import RESULT_KEYS, Log, with_settings
from virnuc_rules.config.model import Config
from virnuc_rules.logs import logger

app = typer.Typer()


@app.command()
@with_settings(*Config.model_fields)
def report(
    config: Config,
    out: Annotated[
        Path | None, typer.Option(help="page to write [default: report.html in the results]")
    ] = None,
    log: Log = None,
) -> None:
    """Write one HTML page about the run; figures, provenance, MultiQC's tables beside it.

    All keys of the config are options; most are only written down as the settings of the run.
    """
    from virnuc_rules.report.page import write_report

    out = out or config.results / "report.html"
    run = write_report(config, out)
    logger.info("%s: %d samples, %d contigs", out, len(run.samples), run.contigs.total)


@app.command()
@with_settings("samples", *RESULT_KEYS, "lease_seconds")
def status(
    config: Config,
    watch: Annotated[bool, typer.Option("--watch", help="redraw until all is done")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show how far a run is: chunks by state, workers, time left."""
    from rich.console import Console

    from virnuc_rules.inspection.status import read_status, render
    from virnuc_rules.inspection.status import watch as watch_status

    if json:
        print(read_status(config).model_dump_json(indent=1))
    elif watch:
        watch_status(config, Console())
    else:
        Console().print(render(read_status(config)))


@app.command()
@with_settings(
    "samples", "results", "bundle", "window", "device", "precision", "threads", "lease_seconds"
)
def doctor(
    config: Config,
    profile: Annotated[
        Path | None,
        typer.Option(help="folder of the Slurm profile to ask Slurm about [default: slurm]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON, a finding a line")] = False,
) -> None:
    """Check what a run needs: filesystem, clock, device, bundle, input, what Slurm would accept."""
    from rich.console import Console

    from virnuc_rules.inspection.doctor import COLOURS, diagnose

    failed = 0
    plain = Console(markup=False, highlight=False, soft_wrap=True)
    for finding in diagnose(config, profile):
        if json:
            print(finding.model_dump_json(), flush=True)
        else:
            plain.print(str(finding), style=COLOURS[finding.level])
        failed += finding.level == "FAILED"
    raise typer.Exit(int(failed > 0))
