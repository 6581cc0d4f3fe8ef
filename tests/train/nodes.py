"""Nodes of a cluster on one machine: each a network namespace with a host name, processes and an ssh server of its own.

They hang on a bridge that has no other way out. A node is started and stopped like a machine: when it goes, all of its
processes go with it at once. Needs root, Linux namespaces, iproute2, OpenSSH's server and client, and pdsh.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

NAMES = ("node-a", "node-b", "node-c", "node-d")
_TURN = 0.2
"""Seconds in which a slow node goes and stands still once."""
_TOOLS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "pdsh", "/usr/sbin/sshd")
_SERVER = """Port 22
HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/key.pub
StrictModes no
PidFile none
UsePAM no
LogLevel ERROR
AcceptEnv *
"""
_CLIENT = """Host *
    IdentityFile /etc/ssh/key
    GlobalKnownHostsFile /etc/ssh/known
    UserKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    ServerAliveInterval 5
    ServerAliveCountMax 3
    LogLevel ERROR
"""


def lacking() -> str:
    """Return why this machine cannot hold nodes; empty if it can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed (apt-get install iproute2 openssh-server openssh-client pdsh)"
    if os.geteuid() != 0:
        return "namespaces want root"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return "" if tried.returncode == 0 else f"namespaces are not allowed: {tried.stderr.decode().strip()}"


class Nodes:
    """A cluster of `count` nodes, the first of which starts runs; all see the same files, as with a shared disk.

    Args:
        folder: For keys, host names and settings.
        count: Nodes.
        mounts: Files or folders that a node sees at another's place, by node: `{"node-b": {seen: own}}`.
        variables: What the ssh server of a node gives every command, by node.
    """

    def __init__(self, folder, count, mounts=None, variables=None):
        self.folder, self.names = folder, NAMES[:count]
        self._mark = f"scl{os.getpid()}"
        self._mounts, self._variables = mounts or {}, variables or {}
        self._roots = {}

    def __enter__(self):
        self._write_settings()
        self._run("ip", "netns", "add", self._mark)
        try:
            for device in ("lo", "bridge"):
                if device == "bridge":
                    self._ip("link", "add", device, "type", "bridge")
                self._ip("link", "set", device, "up")
            for number, name in enumerate(self.names, 1):
                self._start(name, number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        for name in tuple(self._roots):
            self.stop(name)
        for space in (self._mark, *(f"{self._mark}-{name}" for name in self.names)):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)

    def command(self, name, *words):
        """Return the words that run a command on a node."""
        target = self._roots[name].pid
        child = Path(f"/proc/{target}/task/{target}/children").read_text(encoding="utf-8").split()[0]
        return ["nsenter", "--target", child, "--net", "--uts", "--mount", "--pid", *words]

    def link(self, name, state):
        """Pull a node's cable, or plug it in: `down` or `up`."""
        self._ip("link", "set", f"to-{name}", state)

    def slow_link(self, name, rate):
        """Let a node send and receive only so much, as `10mbit`."""
        limit = ("root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms")
        self._run("ip", "netns", "exec", self._mark, "tc", "qdisc", "replace", "dev", f"to-{name}", *limit)

    @contextmanager
    def slowed(self, name, times):
        """Let a node run for one part in `times` alone, all of its processes, as on a processor that is so much slower.

        It stands still for the rest of each fifth of a second, which no message and no heartbeat notices as more than
        slowness.
        """
        over = threading.Event()

        def stop_and_go():
            while not over.wait(_TURN / times):
                self._signal(name, signal.SIGSTOP)
                over.wait(_TURN * (1 - 1 / times))
                self._signal(name, signal.SIGCONT)

        beat = threading.Thread(target=stop_and_go)
        beat.start()
        try:
            yield
        finally:
            over.set()
            beat.join()

    def _signal(self, name, number):
        """Send a signal to every process of a node."""
        target = self._roots[name].pid
        first = Path(f"/proc/{target}/task/{target}/children").read_text(encoding="utf-8").split()[0]
        node = os.readlink(f"/proc/{first}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if os.readlink(process / "ns" / "pid") == node:
                    os.kill(int(process.name), number)

    def stop(self, name):
        """Take a node's power."""
        root = self._roots.pop(name)
        root.kill()  # and with it, all processes of the node
        root.wait()

    def _start(self, name, number):
        space = f"{self._mark}-{name}"
        self._run("ip", "netns", "add", space)
        self._ip("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", space)
        self._ip("link", "set", f"to-{name}", "master", "bridge", "up")
        for words in (("link", "set", "lo", "up"), ("addr", "add", f"10.99.0.{number}/24", "dev", "eth0")):
            self._run("ip", "-n", space, *words)
        self._run("ip", "-n", space, "link", "set", "eth0", "up")
        seen = {"/etc/ssh": self.folder / f"ssh-{name}", "/etc/hosts": self.folder / "hosts-file"}
        mounts = [f"mount --bind {own} {place}" for place, own in (seen | self._mounts.get(name, {})).items()]
        script = " && ".join([f"hostname {name}", *mounts, "mkdir -p /run/sshd", "exec /usr/sbin/sshd -D -e"])
        apart = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        log = (self.folder / f"{name}.log").open("wb")
        self._roots[name] = subprocess.Popen(
            ["ip", "netns", "exec", space, *apart, "bash", "-c", script], stdout=log, stderr=log
        )
        self._until_reached(name, space, f"10.99.0.{number}")

    def _until_reached(self, name, space, address):
        end = time.monotonic() + 60
        asks = ["ip", "netns", "exec", space, "bash", "-c", f"exec 3<>/dev/tcp/{address}/22"]
        while subprocess.run(asks, capture_output=True).returncode != 0:
            assert self._roots[name].poll() is None, (self.folder / f"{name}.log").read_text(encoding="utf-8")
            assert time.monotonic() < end, f"no ssh server on {name}"
            time.sleep(0.1)

    def _write_settings(self):
        keys = self.folder / "key"
        self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys))
        hosts = "".join(f"10.99.0.{number} {name}\n" for number, name in enumerate(self.names, 1))
        (self.folder / "hosts-file").write_text(f"127.0.0.1 localhost\n{hosts}", encoding="utf-8")
        for name in self.names:
            place = self.folder / f"ssh-{name}"
            place.mkdir()
            shutil.copy(keys, place / "key")
            shutil.copy(keys.with_suffix(".pub"), place / "key.pub")
            (place / "known").write_text(f"* {keys.with_suffix('.pub').read_text(encoding='utf-8')}", encoding="utf-8")
            given = self._variables.get(name, {})
            set_them = "SetEnv " + " ".join(f'"{key}={value}"' for key, value in given.items()) if given else ""
            (place / "sshd_config").write_text(f"{_SERVER}{set_them}\n", encoding="utf-8")
            (place / "ssh_config").write_text(_CLIENT, encoding="utf-8")

    def _ip(self, *words):
        self._run("ip", "-n", self._mark, *words)

    def _run(self, *words):
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace")
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def environment(root):
    """Return the variables of a shell on a node: this environment's Python, and the code under `root`."""
    binaries = Path(sys.executable).parent
    return {
        "PATH": f"{binaries}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.environ.get("HOME", "/root"),
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
