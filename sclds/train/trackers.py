"""Trackers that people use: Weights & Biases, MLflow and trackio, each by one key and through its own library.

A tracker writes in a thread of its own, so that a slow server holds no step up; what it cannot take is said once, and
no fault of it ends a run. A run that goes on goes on in the same run of the tracker (`trackers.json` in its folder).
"""

import contextlib
import json
import queue
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from sclds.config import Config, LogConfig
from sclds.run.files import write_atomically
from sclds.run.folder import RunFolder

WAITING = 1000
"""Entries that may wait for a tracker; more are dropped, and that is said."""
PATIENCE = 60.0
"""Seconds that the end of a run waits for a tracker."""
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""Key of `log` → the library that it needs, which is named the same on PyPI."""


def tracker_problems(log: LogConfig) -> list[str]:
    """Return a sentence for every tracker that is asked for and whose library is missing."""
    return [
        f"log.{key}={getattr(log, key)} needs {package}, which is not installed; pip install {package}, or remove it"
        for key, package in PACKAGES.items()
        if getattr(log, key) is not None and find_spec(package) is None
    ]


def open_trackers(config: Config, folder: RunFolder, say: Callable[[str], None]) -> list["Tracker"]:
    """Start every tracker that the settings name.

    Args:
        config: The run's.
        folder: The run's.
        say: Is told what is not written.
    """
    known: dict[str, type[Service]] = {"wandb": Wandb, "mlflow": MLflow, "trackio": Trackio}
    return [Tracker(known[key](config, folder), say) for key in PACKAGES if getattr(config.log, key) is not None]


_LIST = threading.Lock()
"""Held by the one thread of all trackers' that changes their list."""


class Service(ABC):
    """One library; all calls come from one thread.

    Args:
        config: The run's.
        folder: The run's.
    """

    name: str
    key: str

    def __init__(self, config: Config, folder: RunFolder):
        self.config, self.folder = config, folder

    @property
    def project(self) -> str:
        """What the settings name."""
        return str(getattr(self.config.log, self.key))

    @abstractmethod
    def begin(self) -> None:
        """Begin, or go on with, the run of the tracker."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers of a step."""

    @abstractmethod
    def picture(self, name: str, pixels: Any, text: str, step: int) -> None:
        """Add a (H, W, 3) uint8 image and what belongs to it in words."""

    @abstractmethod
    def close(self) -> None:
        """End the run of the tracker."""

    def identity(self) -> str:
        """Return what the tracker knows this run by: as it was before, or new."""
        known = self.identities().get(self.key)
        if known is None:
            known = secrets.token_hex(4)
            self.remember(known)
        return known

    def identities(self) -> dict[str, str]:
        """Return the runs of trackers that this run has begun, by key; none where the file is missing or damaged."""
        try:
            found = json.loads(self.folder.trackers.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}

    def remember(self, identity: str) -> None:
        """Write the run of the tracker down, by which a run that goes on finds it."""
        with _LIST:
            write_atomically(self.folder.trackers, json.dumps(self.identities() | {self.key: identity}) + "\n")


class Wandb(Service):
    """Weights & Biases; WANDB_MODE=offline writes to the run folder alone."""

    name, key = "Weights & Biases", "wandb"

    def begin(self) -> None:
        """Begin or go on; the axis is the optimizer step, so that steps that are taken again are no fault."""
        import wandb

        self._wandb = wandb
        self._run: Any = wandb.init(
            project=self.project,
            name=self.config.name,
            id=self.identity(),
            resume="allow",
            dir=str(self.folder.root),
            config=self.config.model_dump(mode="json"),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Service`."""
        self._run.log({**values, "step": step})

    def picture(self, name: str, pixels: Any, text: str, step: int) -> None:
        """See `Service`."""
        self._run.log({name: self._wandb.Image(pixels, caption=text), "step": step})

    def close(self) -> None:
        """See `Service`."""
        self._run.finish()


class MLflow(Service):
    """MLflow, at MLFLOW_TRACKING_URI or its own default."""

    name, key = "MLflow", "mlflow"
    ALLOWED = re.compile(r"[^\w\-. /:]")
    """What a metric's name may not hold."""
    PARAMETERS = 100
    """That one call takes."""
    CHARACTERS = 500
    """Of a parameter."""

    def begin(self) -> None:
        """Begin or go on; settings are parameters by dotted name."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        known = self.identities().get(self.key)
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self.project)
        experiment = found.experiment_id if found else self._client.create_experiment(self.project)
        self._id = str(self._client.create_run(experiment, run_name=self.config.name).info.run_id)
        self.remember(self._id)
        settings = _flat(self.config.model_dump(mode="json"))
        parameters = [Param(name, str(value)[: self.CHARACTERS]) for name, value in settings.items()]
        for first in range(0, len(parameters), self.PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + self.PARAMETERS])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Service`."""
        now = int(1000 * time.time())
        metrics = [self._metric(self.ALLOWED.sub("_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def picture(self, name: str, pixels: Any, text: str, step: int) -> None:
        """See `Service`."""
        self._client.log_image(self._id, pixels, key=self.ALLOWED.sub("_", name), step=step)
        self._client.log_text(self._id, text, f"{name}/{step}.md")

    def close(self) -> None:
        """See `Service`."""
        self._client.set_terminated(self._id)


class Trackio(Service):
    """trackio, which keeps runs on this machine (TRACKIO_DIR) and finds one by its name."""

    name, key = "trackio", "trackio"

    def begin(self) -> None:
        """Begin or go on."""
        import trackio

        self._trackio = trackio
        self._run: Any = trackio.init(
            project=self.project,
            name=f"{self.config.name}-{self.identity()}",
            config=self.config.model_dump(mode="json"),
            resume="allow",
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Service`."""
        self._run.log(dict(values), step=step)

    def picture(self, name: str, pixels: Any, text: str, step: int) -> None:
        """See `Service`."""
        self._run.log({name: self._trackio.Image(pixels, caption=text)}, step=step)

    def close(self) -> None:
        """See `Service`."""
        self._run.finish()


class Tracker:
    """Hands what a run logs to a service, in a thread of its own.

    Args:
        service: Where to.
        say: Is told, once, that it does not take any more, or that entries were dropped.
    """

    def __init__(self, service: Service, say: Callable[[str], None]):
        self._service, self._say = service, say
        self._entries: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._failed = threading.Event()
        self._fault: str | None = None
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name=f"tracker-{service.key}", daemon=True)
        self._thread.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers of a step."""
        known = dict(values)
        self._put(lambda: self._service.scalars(known, step))

    def picture(self, name: str, pixels: Tensor, text: str, step: int) -> None:
        """Add a (3, H, W) image in [0, 1] and what belongs to it in words."""
        array = (pixels.permute(1, 2, 0) * 255).round().clamp(0, 255).cpu().numpy().astype(np.uint8)
        self._put(lambda: self._service.picture(name, array, text, step))

    def text(self, name: str, markdown: str) -> None:
        """Leave a text out: settings go to trackers as such when they are opened."""

    def close(self) -> None:
        """Wait until everything is written, or say that it is not."""
        if not self._failed.is_set():
            with contextlib.suppress(queue.Full):
                self._entries.put(None, timeout=PATIENCE)
        self._thread.join(PATIENCE)
        self._tell()
        if self._thread.is_alive():
            self._say(f"{self._service.name} has not taken everything in {PATIENCE:.0f} s; metrics.jsonl has it all")
        if self._dropped:
            self._say(f"{self._service.name} was too slow for {self._dropped} entries; metrics.jsonl has them")

    def _put(self, entry: Callable[[], None]) -> None:
        self._tell()
        if self._failed.is_set():
            return
        try:
            self._entries.put_nowait(entry)
        except queue.Full:
            self._dropped += 1

    def _tell(self) -> None:
        """Say from the run's own thread what ended the tracker's."""
        if self._fault is not None:
            self._say(
                f"{self._service.name} ({self._service.key}) takes nothing more: {self._fault}. The run goes on "
                f"without it, and metrics.jsonl has the figures"
            )
            self._fault = None

    def _write(self) -> None:
        """Take entries until the end or a fault; libraries raise of every kind, and none is the run's."""
        try:
            self._service.begin()
            while (entry := self._entries.get()) is not None:
                entry()
            self._service.close()
        except BaseException as fault:
            self._fault = f"{type(fault).__name__}: {' '.join(str(fault).split()) or 'no reason given'}"
            self._failed.set()


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value}
    return flat
