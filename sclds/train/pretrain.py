"""Pre-training as a whole: train, go on, or show what a finished run found."""

from typing import TYPE_CHECKING

from sclds.config import Config
from sclds.data.quarantine import read_quarantine
from sclds.run.checkpoints import Checkpoint
from sclds.run.folder import RunFolder
from sclds.train.progress import Reporter, drop_banners, write_page_of

if TYPE_CHECKING:
    from sclds.train.loop import Run


def pretrain(config: Config, checkpoint: Checkpoint | None) -> int:
    """Bring the run of `config` to its end; return the exit code.

    Args:
        config: What can start here (`sclds.train.startup.checked_start`).
        checkpoint: The run's newest complete one.
    """
    from sclds.train.distributed import ProcessGroup, launched_rank
    from sclds.train.resume import checkpoint_problems

    drop_banners(launched_rank())
    reporter = Reporter(launched_rank(), config.schedule.steps)
    folder = RunFolder(config.run_dir)
    if is_finished(folder, config, checkpoint, reporter):
        reporter.say(f"This run is done ({config.schedule.steps} steps); its results:")
        reporter.show_results(folder.read_results())
        if launched_rank() == 0 and checkpoint and (damage := checkpoint_problems(checkpoint)):
            reporter.say(
                f"{checkpoint.folder} is damaged: {'; '.join(damage[:3])}; remove it, and the same command trains its "
                f"steps again"
            )
        if not folder.report.is_file() and launched_rank() == 0:
            write_page_of(folder, reporter)
        _name_files(reporter, folder)
        return 0
    from sclds.train.guards import Guards
    from sclds.train.loop import Run

    with Guards(config, folder, reporter) as guards:
        with guards.limit("the start", "start"):
            group = ProcessGroup(guards.patience_of_start, folder.collectives)
        try:
            with guards.limit("the start", "start"):
                guards.meet(group)
                run = Run(config, group, folder, reporter, guards)
                group.wait_at_most(guards.patience)
            return _carried_out(run, reporter)
        finally:
            group.close()


def _carried_out(run: "Run", reporter: Reporter) -> int:
    """Train, measure and show; return the exit code."""
    if run.carry_out():
        _name_files(reporter, run.folder)
    else:
        reporter.say(
            f"Stopped after step {run.step} of {run.config.schedule.steps}, saved in {run.folder.checkpoints}; "
            f"the same command goes on from there"
        )
    return 0


def is_finished(folder: RunFolder, config: Config, checkpoint: Checkpoint | None, reporter: Reporter) -> bool:
    """Return whether the run has its last checkpoint, which is its newest, and results of its present held-out sets.

    Why results that are there are not taken is said; the run then measures anew, without training.
    """
    if checkpoint is None or checkpoint.step < config.schedule.steps:
        return False
    problems: list[str] = []
    results = folder.read_results(problems)
    from sclds.evaluation.record import differences
    from sclds.evaluation.tasks import has_something_to_measure

    if "steps" in results and has_something_to_measure(config):
        problems += [f"Measuring again: {told}" for told in differences(results, config, config.schedule.steps)]
    for problem in problems:
        reporter.say(problem)
    return "steps" in results and results["steps"] == config.schedule.steps and not problems


def _name_files(reporter: Reporter, folder: RunFolder) -> None:
    reporter.say(
        f"Report       {folder.report}\nResults      {folder.results}\n"
        f"TensorBoard  {folder.tensorboard}\nCheckpoints  {folder.checkpoints}"
    )
    set_aside = len({str(entry.get("sample")) for entry in read_quarantine(folder.quarantine)})
    if set_aside:
        reporter.say(f"Set aside    {set_aside} samples that could not be used, named in {folder.quarantine}")
