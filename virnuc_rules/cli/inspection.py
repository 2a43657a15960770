"""The commands that inspect a run: report, estimate, status, doctor."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from virnuc_rules.bundles.definition import with_window
from virnuc_rules.cli.settings import Log, Stamp, with_settings
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import ReportFolder, RunFolder
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.logs import logger, say
from virnuc_rules.models.card import read_card
from virnuc_rules.planning import products
from virnuc_rules.planning.forecast import forecast
from virnuc_rules.planning.plan import Plan

app = typer.Typer()


@app.command()
@with_settings
def report(
    config: Config,
    out: Annotated[
        Path | None, typer.Option(help="page to write \\[default: report.html in the results]")
    ] = None,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Write one HTML page about the run; figures, provenance, MultiQC's tables beside it.

    All keys of the config are options; most are only listed as the settings of the run.

    Example: virnuc-rules report --out page.html
    """
    config, folder = with_window(config), RunFolder(config.run.results)
    out = out or folder.report.page
    sheet = read_sheet(config.inputs.samples)
    product = products.report(config, read_card(config.run.bundle), sheet, out)
    if product.up_to_date(stamp):
        return
    from virnuc_rules.report.page import write_report

    seen = product.look()
    product.made.unlink(missing_ok=True)
    run = write_report(config, out)
    # With the settings of the run: other commands read them.
    written = [path for path in (folder.config,) if path.exists()]
    product.finish(seen, [*ReportFolder(out).files(), *written], stamp)
    logger.info("%s: %d samples, %d contigs", out, len(run.samples), run.contigs.total)


@app.command("estimate")
@partial(with_settings, next_run=True)
def estimate_run(
    config: Config,
    fraction: Annotated[
        float,
        typer.Option(min=1e-6, max=1, help="of the windows in which open frames are searched"),
    ] = 1,
    measured_in: Annotated[
        Path | None,
        typer.Option(help="results of a run whose workers' speed is taken \\[default: --results]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what a run will take: windows, chunks, disk, hours of devices. Embeds nothing.

    Example: virnuc-rules estimate --fraction 0.01 --workers 8
    """
    from virnuc_rules.inspection.estimate import estimate

    found = estimate(config, fraction, measured_in)
    say(found.model_dump_json(indent=1) if json else "\n".join(found.lines()))


@app.command()
@partial(with_settings, next_run="plan")
def status(
    config: Config,
    watch: Annotated[
        bool, typer.Option("--watch", help="refresh until all is embedded; Ctrl-C ends it")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="what the next run will embed, and why")
    ] = False,
) -> None:
    """Show the progress of a run: chunks by state, workers, time left.

    Example: virnuc-rules status --watch
    """
    from virnuc_rules.inspection.status import Observer, render
    from virnuc_rules.inspection.status import watch as watch_status
    from virnuc_rules.terminal import Terminal

    observer = Observer(config)
    if plan:
        looked_at = Plan(with_window(config), read_sheet(config.inputs.samples))
        looked_at.look()
        say("\n".join(forecast(looked_at).lines()))
    elif json:
        say(observer.read().model_dump_json(indent=1))
    elif watch:
        watch_status(observer, Terminal())
    else:
        Terminal().print(render(observer.read()))


@app.command("explain")
@with_settings
def explain_call(
    config: Config,
    contig: Annotated[str, typer.Argument(help="id of the contig")],
    sample: Annotated[str, typer.Option(help="its sample, where several have the id")] = "",
    contig_index: Annotated[
        int | None, typer.Option(help="its contig_index, where several of a sample have the id")
    ] = None,
    windows: Annotated[int, typer.Option(min=0, help="maximum of windows shown; 0 = all")] = 20,
    frames: Annotated[bool, typer.Option("--frames", help="also their open frames")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON, with all of them")] = False,
) -> None:
    """Show why a contig was called as it was: the rule, its windows and regions.

    Example: virnuc-rules explain NODE_7 --sample lake
    """
    from virnuc_rules.inspection.explain import explain, rendered
    from virnuc_rules.terminal import Terminal

    if json:
        say(explain(config, contig, sample, contig_index).model_dump_json(indent=1))
    else:
        found = explain(config, contig, sample, contig_index, windows, frames)
        Terminal().print(rendered(found, windows, frames))


@app.command()
@partial(with_settings, next_run=True)
def doctor(
    config: Config,
    profile: Annotated[
        Path | None,
        typer.Option(help="folder of the Slurm profile to ask Slurm about \\[default: slurm]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON, one finding per line")] = False,
) -> None:
    """Check what a run needs: filesystem, clock, device, bundle, input, Slurm's limits.

    Example: virnuc-rules doctor --profile profiles/slurm
    """
    from virnuc_rules.inspection.doctor import COLOURS, diagnose
    from virnuc_rules.terminal import Terminal

    failed = 0
    terminal = Terminal(soft_wrap=True)
    for finding in diagnose(config, profile):
        if json:
            say(finding.model_dump_json())
        else:
            terminal.print(str(finding), style=COLOURS[finding.level])
        failed += finding.level == "FAILED"
    raise typer.Exit(int(failed > 0))
