"""What a report is made of: folders of runs, folders of profiles and CSVs of kernels, each known by what it holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sclds.config.errors import UserError
from sclds.report.chart import Chart
from sclds.report.compare import compared_body, named
from sclds.report.curves import heldout_charts, loss_charts
from sclds.report.kernels_page import Kernels, benchmark_files, heading, kernel_charts, kernels_section, read_kernels
from sclds.report.page import document
from sclds.report.parts import note, section
from sclds.report.profile_page import Profile, of_folder, profile_body, read_profile, refuse_empty
from sclds.report.reference import Reference, reference_of
from sclds.report.run_contents import Run, read_run
from sclds.report.run_page import NO_KERNELS, run_body
from sclds.report.style import STYLE
from sclds.report.throughput import throughput_charts
from sclds.run.folder import RunFolder


@dataclass
class Sources:
    """What was read."""

    runs: dict[str, Run] = field(default_factory=dict)
    """By the names that the page gives them."""
    profiles: list[Profile] = field(default_factory=list)
    kernels: Kernels | None = None
    reference: Reference | None = None
    """Curves behind those of the runs."""

    @property
    def title(self) -> str:
        """What the page is called."""
        names = [*self.runs, *(f"{profile.name}: profile" for profile in self.profiles)]
        return ", ".join(names) or "Kernel microbenchmarks"


def read_sources(paths: Sequence[Path], reference: Reference | None = None) -> Sources:
    """Read everything that paths name.

    Args:
        paths: Folders of runs and profiles, CSVs of kernels or folders that hold them.
        reference: Curves to draw behind; those that ship with the configuration by default.

    Raises:
        UserError: A path is nothing of these.
    """
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]} is given twice; give every folder once")
    runs: list[Run] = []
    found, files = Sources(), list[Path]()
    for path in paths:
        csvs = benchmark_files(path)
        files += csvs
        if of_folder(path):
            profile = read_profile(path)
            refuse_empty(profile)
            found.profiles.append(profile)
        elif csvs and not RunFolder(path).is_run():
            continue
        elif path.is_file():
            raise UserError(f"{path} is no CSV of kernel benchmarks; give one, or the folder of a run or a profile")
        else:
            runs.append(read_run(path))
    found.runs = named(runs)
    found.kernels = read_kernels(files) if files else None
    found.reference = reference or (reference_of(runs[0]) if runs else None)
    return found


def page_of(found: Sources) -> str:
    """Return the whole page."""
    kernels = "" if found.kernels is None else kernels_section(found.kernels)
    bodies = []
    if len(found.runs) == 1:
        [run] = found.runs.values()
        bodies.append(run_body(run, found.reference, kernels or section("Roofline of kernels", note(NO_KERNELS))))
    elif found.runs:
        bodies.append(compared_body(found.runs, found.reference, kernels))
    for number, profile in enumerate(found.profiles):
        bodies.append(profile_body(profile, "" if found.runs or number else kernels))
    if not bodies and found.kernels is not None:
        bodies.append(heading(found.kernels) + kernels)
    return document(found.title, "<hr>".join(bodies), STYLE)


def charts_of(found: Sources) -> list[Chart]:
    """Return the curves of a page, in its order."""
    charts: list[Chart] = []
    if found.runs:
        behind: Mapping[str, Sequence[tuple[float, float]]] = found.reference.curves if found.reference else {}
        charts += [*loss_charts(found.runs, behind), *heldout_charts(found.runs), *throughput_charts(found.runs)]
    return charts + (kernel_charts(found.kernels) if found.kernels else [])
