"""The `sclds` command: the one table of all commands, each imported only when it is called."""

import argparse
import sys

from sclds.cli.arguments import show_any_text
from sclds.cli.table import Command, Group, Table, declare
from sclds.config.errors import UserError


def prepare_commands() -> Table:
    """Return the commands of `sclds prepare`: the embedded data, an index, and a command for each public data set."""
    from sclds.data.prepare.sources import SOURCES

    line = "the images, videos and tokenizer inside the package, from the public packages they come from"
    table = {
        "embedded": Command("sclds.cli.prepare_embedded", line),
        "index": Command(
            "sclds.cli.prepare_index",
            "the index of a folder of shards, which runs open instead of reading every shard's headers",
        ),
    }
    for name, source in SOURCES.items():
        needs = "; ".join(f"{split}: {', '.join(places)}" for split, places in source.splits.items())
        description = f"{source.title}: {source.obtain}. Below --root must lie, for {needs}."
        table[name] = Command("sclds.cli.prepare_public", f"{source.title} from its owner's files", description)
    return table


COMMANDS: Table = {
    "train": Command("sclds.cli.train", "pre-train, go on, or show the result of a run that is done"),
    "evaluate": Command("sclds.cli.evaluate", "measure a checkpoint or weights on held-out sets"),
    "profile": Command("sclds.cli.profile", "measure training speed and where the time of a step goes"),
    "doctor": Command("sclds.cli.doctor", "say what is installed, what is missing, what that costs and how to fix it"),
    "convert": Group(
        "bring weights in and out: released, Hugging Face, a run's checkpoint",
        "kind",
        {
            "released": Command(
                "sclds.cli.convert_released", "a released SCL or GLSCL checkpoint (torch file) into a folder"
            ),
            "to-released": Command(
                "sclds.cli.convert_to_released", "a folder into a torch file with the released names"
            ),
            "run": Command("sclds.cli.convert_run", "the newest checkpoint of a run, of any ZeRO stage, into a folder"),
            "encoders": Command(
                "sclds.cli.convert_encoders",
                "a vision and a text encoder of Hugging Face or open_clip into a folder, fusion drawn by seed",
            ),
            "huggingface": Command(
                "sclds.cli.convert_huggingface",
                "a folder into a Hugging Face folder: config, safetensors, processor, model card",
            ),
        },
    ),
    "verify": Group(
        "compare with published numbers, and one split over processes with another",
        "kind",
        {
            "reference": Command(
                "sclds.cli.verify_reference",
                "compare one step with the published implementation's outputs, losses and gradients",
            ),
            "invariance": Command(
                "sclds.cli.verify_invariance",
                "compare losses and weights of the same steps in several splits over processes and ZeRO stages",
            ),
        },
    ),
    "plan": Command("sclds.cli.plan", "compute speed, memory and communication of a configuration on a cluster"),
    "benchmark": Group(
        "measure the step and the data beside what is usual, on this machine",
        "what",
        {
            "step": Command("sclds.cli.benchmark_step", "speed of one optimizer step, beside the published schedule"),
            "data": Command("sclds.cli.benchmark_data", "reading and decoding, beside Pillow in a torch DataLoader"),
            "economy": Command(
                "sclds.cli.benchmark_economy",
                "retrieval after training in the exact and the economy mode, at equal steps and equal time",
            ),
        },
    ),
    "report": Command("sclds.cli.report", "write the throughput and learning page of a run"),
    "data": Group(
        "look at what a configuration reads",
        "command",
        {
            "show": Command("sclds.cli.data_show", "write a page with a batch as the model sees it"),
            "order": Command(
                "sclds.cli.data_order",
                "show how shards are read and how well samples are shuffled, without any data",
            ),
            "stats": Command("sclds.cli.data_stats", "count and measure the samples of every data set"),
        },
    ),
    "prepare": Group("turn a public data set into shards", "source", prepare_commands),
}
"""Every command by its name."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; a user's fault is a sentence and 2."""
    show_any_text()
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="sclds", description="Semantic Completion Learning under DeepSpeed.")
    declare(parser, COMMANDS, "command", argv)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
