"""`sclds report`: the page of runs, profiles and kernel benchmarks."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command

if TYPE_CHECKING:
    from sclds.report.sources import Sources

CURVES = ".curve.json"


@click.command("report", cls=Command)
@click.argument("folders", nargs=-1, required=True, type=FILE, metavar="DIR...")
@click.option("--out", type=FILE, metavar="FILE", help="where to: .html, .png, .json, or .curve.json for a reference")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of writing a page")
@click.option("--reference", type=FILE, metavar="FILE", help="a .curve.json to draw behind the curves of runs")
def command(folders: tuple[Path, ...], out: Path | None, as_json: bool, reference: Path | None) -> None:
    """Write the page of a run, of several side by side, of a profile or of kernel benchmarks.

    DIR is the folder of a run, such as runs/quickstart, or of a profile, or of a CSV of kernel benchmarks. Several runs
    are compared. By default a page lies in its folder, that of several in compare.html here.
    """
    from sclds.config.errors import UserError
    from sclds.report.reference import read_reference
    from sclds.report.sources import read_sources
    from sclds.run.folder import RunFolder

    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            raise UserError(f"{folder} is empty: no run, profile or benchmark has written there yet")
    if as_json and out is not None:
        raise UserError("--json prints, --out writes: give one of them (--out FILE.json writes the same JSON)")
    target = out or _default(folders)
    if target.suffix not in (".html", ".png", ".json"):
        raise UserError(f"--out {target} is of no known kind; give a name that ends in .html, .png, .json or {CURVES}")
    found = read_sources(folders, None if reference is None else read_reference(reference))
    if as_json:
        from sclds.report.as_json import report_json

        print(report_json(found), end="")
        return
    from sclds.report.page import write_page

    if out is None and len(folders) == 1 and found.runs:
        target = RunFolder(folders[0]).report
    write_page(target, _content(found, target), "make its folder writable, or name another file with --out")
    print(target)


def _content(found: "Sources", target: Path) -> str | bytes:
    """Return the file's content by its ending."""
    from sclds.config.errors import UserError

    if target.name.endswith(CURVES):
        from sclds.report.as_json import curves_json

        if len(found.runs) != 1:
            raise UserError(f"{target.name} takes the curves of one run, not of {len(found.runs)}")
        return curves_json(next(iter(found.runs.values())))
    if target.suffix == ".json":
        from sclds.report.as_json import report_json

        return report_json(found)
    from sclds.report.sources import charts_of, page_of

    if target.suffix == ".png":
        from sclds.report.sheet import sheet

        return sheet(found.title, charts_of(found), found.profiles)
    return page_of(found)


def _default(folders: tuple[Path, ...]) -> Path:
    if len(folders) > 1:
        return Path("compare.html")
    [folder] = folders
    return folder / "report.html" if folder.is_dir() else folder.with_suffix(".html")
