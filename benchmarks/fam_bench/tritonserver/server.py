"""A real server as a child process, which leaves nothing behind."""

from __future__ import annotations

import ctypes
import http.client
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from fam_bench.tritonserver.api import LOAD_TIMEOUT_S, ServerApi
from fam_bench.tritonserver.environment import TritonEnvironment
from fam_bench.tritonserver.errors import PortTaken, TritonServerError
from fam_bench.tritonserver.ports import LOCALHOST, Ports, free_ports
from fam_bench.tritonserver.processes import Process, children_of, wait_until

SHARED_MEMORY = Path("/dev/shm")

START_TIMEOUT_S = LOAD_TIMEOUT_S

EXIT_TIMEOUT_S = 10
"""How long a server that was told to end waits for requests and models; Triton's default is 30."""

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>: a server does not outlive who started it, not even one that is killed."""

KILL_AFTER_S = 5.0
"""Beyond that, before it is killed."""

STUB_TIMEOUT_S = 2.0
"""How long a stub has to see that its server is gone."""

CONNECT_TIMEOUT_S = 2.0

LOG_TAIL_LINES = 40

PORT_TAKEN, ATTEMPTS = "already in use", 3
"""What the log says when another process took a free port first, and how often we try."""


def _ended(stubs: set[Process]) -> bool:
    """Whether all have ended, after the time that they have for it."""
    return wait_until(lambda: not any(stub.is_alive() for stub in stubs), STUB_TIMEOUT_S)


class TritonServer(ServerApi):
    """One `tritonserver` on 127.0.0.1; as a context manager it starts, and leaves nothing behind.

    After :meth:`stop` it can be started again, on other ports.

    Args:
        environment: what to run.
        repository: the model repository.
        folder: an empty folder of its own, for the backend directory and the logs.
        model_control: `explicit`, `none` or `poll`; with `explicit`, `load` says which models are
            there at the start.
        load: names of models; `*` is all.
        flags: further arguments of `tritonserver`, which come last.
        variables: of the process's environment, besides the few that it has.
    """

    def __init__(
        self,
        environment: TritonEnvironment,
        repository: Path,
        folder: Path,
        *,
        model_control: str = "explicit",
        load: Sequence[str] = ("*",),
        flags: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        exit_timeout_s: int = EXIT_TIMEOUT_S,
    ) -> None:
        super().__init__(Ports(0, 0, 0))
        self.environment, self.repository, self.folder = environment, repository, folder
        self.start_timeout_s, self.exit_timeout_s = start_timeout_s, exit_timeout_s
        self.id = f"fam_local_{secrets.token_hex(6)}"
        self.shared_memory_prefix = f"{self.id}_"
        self.log = folder / "server-0.log"
        self._load = load if model_control == "explicit" else ()
        self._model_control, self._flags, self._variables = model_control, flags, variables or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._stubs: set[Process] = set()
        self._starts = 0

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of `tritonserver`; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it and its models are ready.

        Raises:
            TritonServerError: it ended or was not ready in time.
        """
        if self._process is not None:
            raise TritonServerError(f"{self.id} is already running as process {self.pid}")
        self._make_backend_directory()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._start_once()
            except PortTaken:
                if attempt == ATTEMPTS:
                    raise

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what does not end in time: the server, and stubs it left."""
        process, self._process = self._process, None
        if process is None:
            return
        stubs = self._stubs | set(children_of(process.pid))
        process.terminate()
        try:
            process.wait(self.exit_timeout_s + KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            stubs |= set(children_of(process.pid))
            process.kill()
            process.wait()
        if not _ended(stubs):
            for stub in stubs:
                stub.kill()
            _ended(stubs)
        self._stubs = set()

    def close(self) -> None:
        """Stops the server and removes the shared memory that a killed stub leaves."""
        self.stop()
        for file in self.leftovers():
            file.unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """The server's files of shared memory; none after a clean exit."""
        return sorted(SHARED_MEMORY.glob(f"{self.shared_memory_prefix}*"))

    def children(self) -> list[Process]:
        """The stubs that run now; :meth:`stop` ends them even if the server is killed before."""
        found = [] if self.pid is None else children_of(self.pid)
        self._stubs |= set(found)
        return found

    def cpu_seconds(self) -> float:
        """What the server and its stubs have taken of the processors."""
        server = None if self.pid is None else Process.of(self.pid)
        return sum(one.cpu_seconds() for one in (server, *self.children()) if one is not None)

    def stub_pids(self, model: str) -> list[int]:
        """Of the Python processes that serve this model, one per instance."""
        instance = re.compile(rf"{re.escape(model)}_\d+_\d+")
        return [
            child.pid
            for child in self.children()
            if any(instance.fullmatch(argument) for argument in child.arguments())
        ]

    def load(self, model: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> tuple[int, str]:
        """Loads or reloads a model; status and text, which is empty on success."""
        answer = super().load(model, timeout_s=timeout_s)
        self.children()
        return answer

    def log_tail(self) -> str:
        """The log's last lines."""
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _make_backend_directory(self) -> None:
        python = self.folder / "backends/python"
        python.mkdir(parents=True, exist_ok=True)
        for file in self.environment.backend_files:
            (python / file.name).unlink(missing_ok=True)
            (python / file.name).symlink_to(file)

    def _start_once(self) -> None:
        self.ports = free_ports()
        self._starts += 1
        self.log = self.folder / f"server-{self._starts}.log"
        libc = ctypes.CDLL(None)  # loaded here, since little may be done between fork and exec
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [self.environment.tritonserver, *self._arguments()],
                env=self._environment_variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        try:
            self._wait_until_ready(self._process)
            self.children()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        if not wait_until(
            lambda: process.poll() is not None or self._is_ready(), self.start_timeout_s
        ):
            what, kind = f"not ready in {self.start_timeout_s:g} s", TritonServerError
        elif process.poll() is not None:
            what = f"ended with status {process.poll()} before it was ready"
            kind = PortTaken if PORT_TAKEN in self.log_tail() else TritonServerError
        else:
            return
        raise kind(f"tritonserver {what}; {self.log}:\n{self.log_tail()}")

    def _is_ready(self) -> bool:
        """Whether this server, and not another on a port we lost, has its models and its ports.

        It opens the port of its metrics after it has said over HTTP that it is ready.
        """
        try:
            _, about = self.request("/v2", timeout_s=CONNECT_TIMEOUT_S)
            status, _ = self.request("/v2/health/ready", timeout_s=CONNECT_TIMEOUT_S)
            for port in vars(self.ports).values():
                socket.create_connection((LOCALHOST, port), timeout=CONNECT_TIMEOUT_S).close()
        except (OSError, http.client.HTTPException):
            return False
        return status == 200 and f'"name":"{self.id}"' in about

    def _arguments(self) -> list[str]:
        ports = vars(self.ports).items()
        return [
            f"--id={self.id}",
            f"--model-repository={self.repository}",
            f"--backend-directory={self.folder / 'backends'}",
            *(f"--{protocol}-address={LOCALHOST}" for protocol, _ in ports),
            *(f"--{protocol}-port={port}" for protocol, port in ports),
            f"--model-control-mode={self._model_control}",
            *(f"--load-model={model}" for model in self._load),
            f"--backend-config=python,shm-region-prefix-name={self.shared_memory_prefix}",
            f"--exit-timeout-secs={self.exit_timeout_s}",
            "--allow-gpu-metrics=false",
            *self._flags,
        ]

    def _environment_variables(self) -> dict[str, str]:
        """Nothing of the caller's own; no GPU, so that every machine does the same."""
        library_folder = self.environment.library_folder
        return {
            "PATH": f"{self.environment.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "",
            **({"LD_LIBRARY_PATH": str(library_folder)} if library_folder else {}),
            **self._variables,
        }
