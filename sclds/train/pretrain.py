"""Pre-training as a whole: train, go on, or show what a finished run found."""

from sclds.config import Config
from sclds.data.quarantine import read_quarantine
from sclds.run.checkpoints import Checkpoint
from sclds.run.folder import RunFolder
from sclds.train.progress import Reporter, drop_banners


def pretrain(config: Config, checkpoint: Checkpoint | None) -> int:
    """Bring the run of `config` to its end; return the exit code.

    Args:
        config: What can start here (`sclds.train.startup.checked_start`).
        checkpoint: The run's newest complete one.
    """
    from sclds.train.distributed import ProcessGroup, launched_rank

    drop_banners(launched_rank())
    reporter = Reporter(launched_rank(), config.schedule.steps)
    folder = RunFolder(config.run_dir)
    if is_finished(folder, config, checkpoint):
        reporter.say(f"This run is done ({config.schedule.steps} steps); its results:")
        reporter.show_results(folder.read_results())
        _name_files(reporter, folder)
        return 0
    from sclds.train.agreement import refuse_different_starts
    from sclds.train.guards import Guards
    from sclds.train.loop import Run

    with Guards(config, folder, reporter) as guards:
        with guards.limit("the start", "start"):
            group = ProcessGroup(guards.patience)
        try:
            with guards.limit("the start", "start"):
                guards.meet(group)
                refuse_different_starts(config, group)
                run = Run(config, group, folder, reporter, guards)
            if not run.train():
                reporter.say(
                    f"Stopped after step {run.step} of {config.schedule.steps}, saved in {folder.checkpoints}; "
                    f"the same command goes on from there"
                )
                return 0
            run.finish()
            _name_files(reporter, folder)
            return 0
        finally:
            group.close()


def is_finished(folder: RunFolder, config: Config, checkpoint: Checkpoint | None) -> bool:
    """Return whether the run has its last checkpoint, which is its newest, and its results."""
    if checkpoint is None or checkpoint.step < config.schedule.steps:
        return False
    return folder.read_results().get("steps") == config.schedule.steps and folder.report.is_file()


def _name_files(reporter: Reporter, folder: RunFolder) -> None:
    reporter.say(
        f"Report       {folder.report}\nResults      {folder.results}\n"
        f"TensorBoard  {folder.tensorboard}\nCheckpoints  {folder.checkpoints}"
    )
    set_aside = len({entry.get("sample") for entry in read_quarantine(folder.quarantine)})
    if set_aside:
        reporter.say(f"Set aside    {set_aside} samples that could not be used, named in {folder.quarantine}")
