"""`sclds launch`: pre-train on the hosts of a hostfile, with settings that no remote shell can change."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole, configured
from sclds.cli.command import Command


@click.command("launch", cls=Command)
@configured
@click.option("--hostfile", type=FILE, required=True, metavar="FILE", help="a line a host: worker-1 slots=8")
@click.option("--launcher", type=click.Choice(["pdsh", "openmpi"]), default="pdsh", help="what reaches the hosts")
@click.option("--include", default="", help="only these hosts and slots: worker-1@worker-2:0,2")
@click.option("--exclude", default="", help="all but these hosts and slots")
@click.option("--master-addr", default="", show_default="found over ssh", help="address of the first host")
@click.option("--master-port", type=Whole(1, 65535), default=29500, help="port on it, which all hosts must reach")
@click.option("--launcher-args", default="", help="further words for pdsh or mpirun, quoted as one")
@click.option("--max-restarts", type=Whole(0, 10_000), default=0, help="starts after a fault, from the last checkpoint")
@click.option("--min-hosts", type=Whole(0), default=0, help="hosts to go on with if others are gone; 0 wants all")
def command(
    config: str,
    overrides: tuple[str, ...],
    hostfile: Path,
    launcher: str,
    include: str,
    exclude: str,
    master_addr: str,
    master_port: int,
    launcher_args: str,
    max_restarts: int,
    min_hosts: int,
) -> int:
    """Pre-train on the hosts of a file.

    Settings are checked here before anything starts, and written to launch.yaml in the run folder, which all hosts must
    share. Then DeepSpeed's runner starts `sclds train` with that file on each. Under Slurm use
    configs/cluster/pretrain.sbatch instead.

    With --max-restarts this process stays and starts the run again after a fault that is not yours.
    """
    if min_hosts and not max_restarts:
        raise click.UsageError("--min-hosts has no effect without --max-restarts: leave it out, or give both")
    from sclds.train.cluster import Hosts, launch
    from sclds.train.supervise import Restarts

    hosts = Hosts(hostfile, launcher, include, exclude, master_addr, master_port, launcher_args)
    restarts = Restarts(max_restarts, min_hosts or None) if max_restarts else None
    return launch(config, list(overrides), hosts, click.echo, restarts)
