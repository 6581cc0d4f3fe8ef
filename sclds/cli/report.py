"""`sclds report`: the page of a run."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command


@click.command("report", cls=Command)
@click.argument("run_dir", type=FILE)
def command(run_dir: Path) -> None:
    """Write the throughput and learning page of a run.

    RUN_DIR is its folder, such as runs/quickstart.
    """
    from sclds.config.errors import UserError
    from sclds.report.run_page import write_report
    from sclds.run.folder import RunFolder

    if run_dir.is_dir() and not RunFolder(run_dir).holds_run():
        raise UserError(
            f"{run_dir} is no run's folder: it holds neither config.yaml nor metrics.jsonl; give one that does"
        )
    print(write_report(run_dir))
