"""A SLURM cluster of two nodes on this machine's loopback, and the jobs on it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
_GPUS = ("/dev/null", "/dev/zero")  # devices that every machine has
_OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


class UnavailableError(Exception):
    """No cluster can be made here, and why."""


class Cluster:
    """One ``slurmctld``, and two ``slurmd`` that are the nodes n1 and n2, each of four CPUs and two GPUs.

    The GPUs are other devices under that name: SLURM counts them and hands them out, nothing computes on them. All that
    the cluster writes is in ``root``; its ports are free ones and its key its own, so that it stands beside others.

    Args:
        root: an empty directory.

    Raises:
        UnavailableError: if SLURM is not installed, or this is not root.
    """

    def __init__(self, root: Path) -> None:
        if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
            raise UnavailableError(f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)")
        if os.geteuid() != 0:
            raise UnavailableError("the test's cluster is started by root")
        self.root = root
        self.environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}

    def start(self) -> None:
        for folder in ("log", "state", "spool-n1", "spool-n2"):
            (self.root / folder).mkdir()
        (self.root / "slurm.conf").write_text(self._configuration())
        gpus = "".join(f"NodeName=n[1-2] Name=gpu File={device}\n" for device in _GPUS)
        (self.root / "gres.conf").write_text(gpus)
        self._authenticate()
        self.command("slurmctld")
        for node in ("n1", "n2"):
            self.command("slurmd", "-N", node)
        self._wait_for_nodes()

    def stop(self) -> None:
        """End all jobs and all daemons, as far as they have been started."""
        if self._pid("slurmctld"):
            self.command("scancel", "--user=root")
            wait_for(lambda: not self.command("squeue", "-h"), "end of all jobs", 60, self.log)
        daemons = [self._pid(name) for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged")]
        running = [pid for pid in daemons if pid]
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running), "end of SLURM", 20, self.log)

    def submit(self, script: str, *arguments: str, options: list[str], directory: Path, **environment: str) -> Job:
        """Submit ``slurm/<script>`` from a directory.

        Args:
            arguments: the script's.
            options: sbatch's.
            environment: what the job finds in its environment beside this process's own.
        """
        command = ["sbatch", "--parsable", *options, f"slurm/{script}", *arguments]
        return Job(self, self.command(*command, directory=directory, **environment), directory)

    def command(self, *command: str, directory: Path | None = None, **environment: str) -> str:
        """What one of SLURM's programs prints."""
        environment = {**self.environment, **environment}
        answer = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, f"{' '.join(command)}: {answer.stderr}\n{self.log()}"
        return answer.stdout.strip()

    @contextmanager
    def without(self, node: str) -> Iterator[None]:
        """Let a node die with all that runs on it, unknown to SLURM, and come back at the end."""
        processes = self.processes(f"SLURMD_NODENAME={node}")
        supervisors = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in processes}
        for pid in {self._pid(f"slurmd-{node}") or 0, *supervisors, *processes}:
            os.kill(pid, signal.SIGKILL)
        try:
            yield
        finally:
            self.command("slurmd", "-N", node)
            self._wait_for_nodes()

    def processes(self, *marks: str) -> list[int]:
        """The processes of this cluster's jobs that have these variables, written ``NAME=value``; the oldest first."""
        wanted = {f"SLURM_CONF={self.root}/slurm.conf", *marks}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_text(errors="replace").split("\0")
            except OSError:  # it has ended meanwhile
                continue
            if wanted <= {*environment}:
                found.append(int(process.name))
        return sorted(found)

    def log(self) -> str:
        file = self.root / "log" / "slurmctld.log"
        return f"--- {file.name}\n{file.read_text()[-4000:]}" if file.exists() else ""

    def _authenticate(self) -> None:
        own = [f"--{kind}-file={self.root}/munged.{kind}" for kind in ("key", "pid", "seed", "log")]
        key = self.root / "munged.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        # By force: munged wants its socket where every user can reach it, and root, who is all there is, always can.
        munged = ["munged", "--force", f"--socket={self.root}/munge.socket", *own]
        answer = subprocess.run(munged, capture_output=True, text=True)
        if answer.returncode != 0:
            raise UnavailableError(f"munged does not start: {answer.stderr}")

    def _wait_for_nodes(self) -> None:
        wait_for(
            lambda: self.command("sinfo", "-h", "-o", "%D", "-t", "idle,alloc,mix") == "2", "two nodes", 30, self.log
        )

    def _pid(self, name: str) -> int | None:
        file = self.root / f"{name}.pid"
        return int(file.read_text()) if file.exists() else None

    def _configuration(self) -> str:
        controller, n1, n2 = _free_ports(3)
        # Job ids become ports (15000 and their last four digits), and another cluster's jobs may run on this machine.
        first_job = 1 + secrets.randbelow(9_000)
        return f"""
            ClusterName=test
            SlurmctldHost=localhost(127.0.0.1)
            SlurmctldPort={controller}
            SlurmUser=root
            SlurmdUser=root
            AuthType=auth/munge
            AuthInfo=socket={self.root}/munge.socket
            StateSaveLocation={self.root}/state
            SlurmdSpoolDir={self.root}/spool-%n
            SlurmctldPidFile={self.root}/slurmctld.pid
            SlurmdPidFile={self.root}/slurmd-%n.pid
            SlurmctldLogFile={self.root}/log/slurmctld.log
            SlurmdLogFile={self.root}/log/slurmd-%n.log
            SlurmdParameters=config_overrides
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            JobAcctGatherType=jobacct_gather/none
            MpiDefault=none
            ReturnToService=2
            KillWait=10
            FirstJobId={first_job}
            SchedulerParameters=batch_sched_delay=0,sched_interval=1
            GresTypes=gpu
            NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=4 Gres=gpu:2 State=UNKNOWN
            NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=4 Gres=gpu:2 State=UNKNOWN
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            PartitionName=test Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=60 State=UP
            PartitionName=urgent Nodes=n1,n2 PriorityTier=2 State=UP
        """.replace("\n            ", "\n")


@dataclass(frozen=True)
class Job:
    """A job, or an array of them.

    Args:
        number: SLURM's, of an array's task ``<array>_<task>``.
        directory: where it was submitted and writes its log.
    """

    cluster: Cluster
    number: str
    directory: Path

    @property
    def log(self) -> str:
        """What it has printed so far."""
        names = (self.number, f"{self.number}_4294967294")  # the second where an array's name is none's
        files = [file for file in self.directory.glob("*.out") if file.stem.partition("-")[2] in names]
        return files[0].read_text() if files else ""

    @property
    def state(self) -> str:
        return self._field("JobState")

    @property
    def exit_code(self) -> int:
        return int(self._field("ExitCode").partition(":")[0])

    def tasks(self, *numbers: int) -> list[Job]:
        """Of an array, its tasks by their numbers."""
        return [Job(self.cluster, f"{self.number}_{number}", self.directory) for number in numbers]

    def wait_for_line(self, pattern: str, seconds: float = 60) -> None:
        self._wait(lambda: re.search(pattern, self.log) is not None, f"line {pattern!r} in its log", seconds)

    def wait_for_file(self, pattern: str, seconds: float = 60) -> None:
        """Wait for a file by its path in the directory submitted from."""
        self._wait(lambda: any(self.directory.glob(pattern)), f"file {pattern}", seconds)

    def wait_for_end(self, seconds: float = 90) -> str:
        """Wait until it is over, and return its last state."""
        self._wait(lambda: self.state in _OVER, "end", seconds)
        return self.state

    def wait_for_requeue(self, seconds: float = 60) -> None:
        """Wait until it has queued itself again, and spare it most of the two minutes that SLURM then lets pass.

        What starts within the second in which SLURM has withdrawn the job's credential finds its own withdrawn too.
        """
        self._wait(lambda: self.state == "PENDING" and self._field("Restarts") != "0", "requeue", seconds)
        self.cluster.command("scontrol", "update", f"JobId={self.number}", "StartTime=now+2")

    def send(self, name: str) -> None:
        """A signal to its processes, as before the time limit: not to the batch script."""
        self.cluster.command("scancel", f"--signal={name}", self.number)

    def cancel(self) -> None:
        self.cluster.command("scancel", self.number)

    def processes(self, *marks: str) -> list[int]:
        """Those that belong to it and have these variables too."""
        return self.cluster.processes(f"SLURM_JOB_ID={self.number}", *marks)

    def rank(self, number: int) -> int:
        """The process of a rank."""
        return self.processes("SLURM_STEP_ID=0", f"SLURM_PROCID={number}")[0]

    def _field(self, name: str) -> str:
        found = re.search(rf"\b{name}=(\S+)", self.cluster.command("scontrol", "show", "job", self.number))
        assert found
        return found[1]

    def _wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        wait_for(
            condition,
            f"{what} of job {self.number}",
            seconds,
            lambda: f"--- {self.state}\n{self.log}\n{self.cluster.log()}",
        )


def wait_for(condition: Callable[[], bool], what: str, seconds: float, evidence: Callable[[], str]) -> None:
    """Wait until a condition holds; it is an error, which shows the evidence, if it does not within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds} s\n{evidence()}"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports
