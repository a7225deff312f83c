"""A TorchServe of one's own: free ports, its own temporary folder, always stopped, no other server touched."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from stages.paths import PROJECT
from stages.stage import StageError

SERVE = PROJECT / "serve"
TORCHSERVE = (sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots")
# What TorchServe starts each worker with.
WORKER = "model_service_worker.py"
STOP_TIMEOUT = 15.0
PORTS = ("inference_address", "management_address", "metrics_address", "grpc_inference_port", "grpc_management_port")


@dataclass(frozen=True)
class Server:
    """A running TorchServe. url, management_url, metrics_url: without a slash at the end. key_file: its keys.

    launcher: process id of the `torchserve` command, which waits for the front end. log: what it printed.
    cold_start_s: seconds from its start to the first right answer.
    """

    url: str
    management_url: str
    metrics_url: str
    key_file: Path
    log: Path
    launcher: int
    cold_start_s: float

    @property
    def frontend(self) -> psutil.Process:
        """The Java process. Raises StageError where it has died."""
        children = _children(self.launcher, recursive=False)
        if not children:
            raise StageError(f"TorchServe has died: {_tail(self.log)}")
        return children[0]

    @property
    def workers(self) -> list[psutil.Process]:
        """The Python processes that hold the model; another one, every minute, measures the machine."""
        return [process for process in _children(self.frontend.pid, recursive=True) if _is_worker(process)]

    def resident_mb(self) -> float:
        """Resident memory of the front end and its workers, in megabytes (10^6 bytes), whatever else runs: what a
        process has for itself, and once what several have of the same file, as of a library."""
        files: dict[str, int] = {}

        def own(process: psutil.Process) -> int:
            maps = process.memory_maps(grouped=True)
            for each in maps:
                files[each.path] = max(files.get(each.path, 0), each.rss - each.anonymous)
            return sum(each.anonymous for each in maps)

        return (self._sum(own) + sum(files.values())) / 1e6

    def cpu_seconds(self) -> float:
        """Processor time that the front end and its workers have used so far."""
        return self._sum(lambda process: (times := process.cpu_times()).user + times.system)

    def descriptors(self) -> int:
        """Open file descriptors of the front end and its workers."""
        return int(self._sum(lambda process: process.num_fds()))

    def _sum(self, measure: Callable[[psutil.Process], float]) -> float:
        """Over all processes. One that ends meanwhile is left out."""
        total = 0.0
        for process in (self.frontend, *self.workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += measure(process)
        return total


@contextlib.contextmanager
def serving(archive: Path, model: str, timeout: float = 180.0) -> Iterator[Server]:
    """Serve `archive` as `model` until the block ends, however it ends; yields once a real prediction came back.

    timeout: seconds for the start. Raises StageError where there is no Java, or no answer in time.
    """
    archive = archive.resolve()
    if not archive.is_file():
        raise StageError(f"{archive} is missing: run the package stage")
    # What TorchServe reads from the environment would win over the configuration written here.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TS_")}
    # As serve/env.sh.
    fixed = {"JAVA_HOME": java_home(), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {"OPENBLAS_NUM_THREADS": "1"} | inherited | fixed
    # Before the archive's folder in a worker, where the code of another commit would answer for the archive's.
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory(prefix="ts-", ignore_cleanup_errors=True) as name, _stoppable():
        folder = Path(name)
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        # Here the configuration finds its other files. The project's own path may hold a blank, and at one TorchServe
        # cuts a JVM argument in two.
        (folder / "serve").symlink_to(SERVE)
        config = folder / "config.properties"
        config.write_text(own_config((SERVE / "config.properties").read_text(encoding="utf-8"), ports, archive.parent))
        # One server per temporary folder, where its workers' sockets lie too; logs and keys go to the working one.
        environment |= {"TS_CONFIG_FILE": str(config), "TMPDIR": name, "TEMP": name}
        for place in ("LOG_LOCATION", "METRICS_LOCATION"):
            environment.pop(place, None)
        started = time.monotonic()
        log = folder / "torchserve.log"
        with log.open("wb") as output:
            launcher = subprocess.Popen(
                [*TORCHSERVE, "--models", f"{model}={archive.name}"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A process group of its own: stopped as a whole, and deaf to the Ctrl-C that ends us.
                start_new_session=True,
            )
        try:
            url, management, metrics = (f"http://127.0.0.1:{ports[key]}" for key in PORTS[:3])
            _wait(launcher, url, model, folder / "key_file.json", log, timeout)
            seconds = time.monotonic() - started
            yield Server(url, management, metrics, folder / "key_file.json", log, launcher.pid, seconds)
        finally:
            _stop(launcher)


def java_home() -> str:
    """JAVA_HOME, found as serve/env.sh finds it. Raises StageError, with the mend, where there is no Java."""
    found = subprocess.run([sys.executable, SERVE / "java.py"], capture_output=True, text=True)
    if found.returncode:
        raise StageError(" ".join(found.stderr.split()))
    return found.stdout.strip()


def own_config(text: str, ports: dict[str, int], model_store: Path) -> str:
    """The project's config.properties with other ports (by key) and another model store; all else as it is."""
    own = {key: f"http://127.0.0.1:{port}" if key.endswith("address") else str(port) for key, port in ports.items()}
    own["model_store"] = str(model_store)
    kept = [line for line in text.splitlines() if line.split("=")[0].strip() not in own]
    return "\n".join([*kept, *(f"{key}={value}" for key, value in own.items())]) + "\n"


def free_ports(count: int) -> list[int]:
    """Ports that are free now. All are held until the last is known, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(launcher: subprocess.Popen[bytes], url: str, model: str, key: Path, log: Path, timeout: float) -> None:
    """Wait for a real answer. Raises StageError where TorchServe ends before, or the time does."""
    command = [sys.executable, str(SERVE / "ready.py"), "--url", url, "--model", model, "--key-file", str(key)]
    with subprocess.Popen(
        [*command, "--timeout", str(timeout)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as ready:
        try:
            while ready.poll() is None:
                if launcher.poll() is not None:
                    raise StageError(f"TorchServe ended while it started: {_tail(log)}")
                time.sleep(0.05)
            if ready.returncode:
                raise StageError(f"{ready.stderr.read().decode().strip()}; its log ends: {_tail(log)}")
        finally:
            ready.kill()


def _children(pid: int, recursive: bool) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any(Path(word).name == WORKER for word in process.cmdline())
    return False


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    """End the front end, which ends its workers and its launcher; after STOP_TIMEOUT kill whatever is left."""
    # A front end that is stopped (SIGSTOP) would never see the SIGTERM.
    for process in _children(launcher.pid, recursive=False):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            process.resume()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(STOP_TIMEOUT)
    finally:
        # Also where whoever waits has lost patience.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, end the block like an exception does, so that what was started is
    stopped."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    # One that is ignored stays so: `nohup` means it.
    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tail(log: Path) -> str:
    """The last line of a log that says something went wrong, else its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Exception" in line or "Error:" in line]
    return (errors or lines or ["an empty log"])[-1].strip()
