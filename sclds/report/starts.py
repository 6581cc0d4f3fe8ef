"""What `environment.json` tells of a start of a run, as rows that people read."""

from sclds.run.environment import Host, Start


def describe_start(start: Start) -> list[tuple[str, str]]:
    """Return the rows of one start: what, and its value."""
    end = f"{_time(start.ended)}, {start.outcome}" if start.ended else f"last seen {_time(start.last_seen)}, not ended"
    git = start.git
    rows = [
        ("Started", _time(start.started)),
        ("Ended", end),
        ("Steps", f"{start.first_step:,} to {start.last_step:,}"),
        ("Machines", "; ".join(_host(host) for host in start.hosts)),
        ("Processes", f"{start.world_size:,}"),
        ("Parameters", f"{start.parameters:,}"),
        ("Peak memory of a process", _memory(start)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in start.versions.items())),
        ("Commit", f"{git.commit}{', with changes that are not committed' if git.dirty else ''}" if git else ""),
    ]
    return [(what, value) for what, value in rows if value]


def _host(host: Host) -> str:
    gpus = f", {host.gpus} × {host.gpu}" if host.gpu else ""
    return f"{host.name}: {host.processes} processes, {host.cores} cores of {host.cpu}{gpus}"


def _memory(start: Start) -> str:
    told = [f"{start.peak_host_bytes / 1e9:.2f} GB of the host"] if start.peak_host_bytes else []
    told += [f"{start.peak_device_bytes / 1e9:.2f} GB of its GPU"] if start.peak_device_bytes else []
    return " and ".join(told)


def _time(stamp: str) -> str:
    return stamp.replace("T", " ").replace("+00:00", " UTC")
