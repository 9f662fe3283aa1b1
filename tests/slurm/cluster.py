"""A SLURM cluster of two nodes on this machine's loopback interface, and its jobs."""

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
_HANGING = 600  # seconds after which a test gives up; it waits for conditions, and continues as soon as they hold
_OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


class UnavailableError(Exception):
    """The reason for which no cluster can be started here."""


class Cluster:
    """One ``slurmctld``, and two ``slurmd`` that are the nodes n1 and n2, each with four CPUs and two GPUs.

    The GPUs are other devices that SLURM allocates as GPUs; nothing computes on them. The cluster writes only into
    ``root``, and has its own ports and key, so that several clusters can run at once.

    Args:
        root: an empty directory.

    Raises:
        UnavailableError: if SLURM is not installed, or the user is not root.
    """

    def __init__(self, root: Path) -> None:
        if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
            raise UnavailableError(f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)")
        if os.geteuid() != 0:
            raise UnavailableError("the test's cluster is started by root")
        self.root = root
        self.environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
        self.environment.pop("OMP_NUM_THREADS", None)  # a job has its own number of threads

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
        """End all jobs and all daemons that have been started."""
        if self._pid("slurmctld"):
            self.command("scancel", "--user=root")
            wait_for(lambda: not self.command("squeue", "-h"), "end of all jobs", self.log)
        daemons = [self._pid(name) for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged")]
        running = [pid for pid in daemons if pid]
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running), "end of SLURM", self.log)

    def submit(self, script: str, *arguments: str, options: list[str], directory: Path, **environment: str) -> Job:
        """Submit ``slurm/<script>`` from a directory.

        Args:
            script: the name of the script.
            arguments: the arguments of the script.
            options: the options of sbatch.
            directory: the working directory.
            environment: variables to add to the job's environment.
        """
        command = ["sbatch", "--parsable", *options, f"slurm/{script}", *arguments]
        return Job(self, self.command(*command, directory=directory, **environment), directory)

    def command(self, *command: str, directory: Path | None = None, **environment: str) -> str:
        """Return the output of one of SLURM's programs."""
        environment = {**self.environment, **environment}
        answer = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, f"{' '.join(command)}: {answer.stderr}\n{self.log()}"
        return answer.stdout.strip()

    @contextmanager
    def without(self, node: str) -> Iterator[None]:
        """Kill a node and all its processes without telling SLURM, and start the node again at the end."""
        processes = self.processes(f"SLURMD_NODENAME={node}")
        supervisors = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in processes}
        daemon = self._pid(f"slurmd-{node}")
        assert daemon, f"slurmd of {node} is not running"
        for pid in {daemon, *supervisors, *processes}:
            os.kill(pid, signal.SIGKILL)
        try:
            yield
        finally:
            self.command("slurmd", "-N", node)
            self._wait_for_nodes()

    def processes(self, *marks: str) -> list[int]:
        """Return the processes of jobs that have these environment variables (``NAME=value``), the oldest first."""
        wanted = {f"SLURM_CONF={self.root}/slurm.conf", *marks}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_text(errors="replace").split("\0")
            except OSError:  # the process has ended
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
        # --force, because munged expects every user to reach its socket; here the only user is root.
        munged = ["munged", "--force", f"--socket={self.root}/munge.socket", *own]
        answer = subprocess.run(munged, capture_output=True, text=True)
        if answer.returncode != 0:
            raise UnavailableError(f"munged does not start: {answer.stderr}")

    def _wait_for_nodes(self) -> None:
        wait_for(lambda: self.command("sinfo", "-h", "-o", "%D", "-t", "idle,alloc,mix") == "2", "two nodes", self.log)

    def _pid(self, name: str) -> int | None:
        file = self.root / f"{name}.pid"
        return int(file.read_text() or 0) if file.exists() else None

    def _configuration(self) -> str:
        controller, n1, n2 = _free_ports(3)
        # Lightning derives a port from the last four digits of a job's id, and other clusters may run on this machine.
        first_job = 1 + secrets.randbelow(9_000)
        # SLURM's own limits are long, because a busy machine takes long to start or to stop a job: KillWait is the time
        # for a checkpoint after SIGTERM, MinJobAge the time for which an ended job can be queried.
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
            KillWait=30
            MinJobAge=86400
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
        cluster: the cluster.
        number: SLURM's id, ``<array>_<task>`` for a task of an array.
        directory: the directory that it was submitted from, with its log.
    """

    cluster: Cluster
    number: str
    directory: Path

    @property
    def log(self) -> str:
        """The output so far."""
        names = (self.number, f"{self.number}_4294967294")  # the second is %A_%a of a job that is no array
        files = [file for file in self.directory.glob("*.out") if file.stem.partition("-")[2] in names]
        return files[0].read_text() if files else ""

    @property
    def state(self) -> str:
        return self.field("JobState")

    @property
    def exit_code(self) -> int:
        return int(self.field("ExitCode").partition(":")[0])

    def tasks(self, *numbers: int) -> list[Job]:
        """Return tasks of this array by their numbers."""
        return [Job(self.cluster, f"{self.number}_{number}", self.directory) for number in numbers]

    def wait_for_line(self, pattern: str) -> None:
        self._wait(lambda: re.search(pattern, self.log) is not None, f"line {pattern!r} in its log")

    def wait_for_file(self, pattern: str) -> None:
        """Wait for a file in the job's directory."""
        self._wait(lambda: any(self.directory.glob(pattern)), f"file {pattern}")

    def wait_for_end(self) -> str:
        """Wait until the job has ended, and return its last state."""
        self._wait(lambda: self.state in _OVER, "end")
        return self.state

    def wait_until_gone(self) -> None:
        """Wait until no process of the job is left."""
        self._wait(lambda: not self.processes(), "end of its processes")

    def wait_for_requeue(self, seconds: int = 2) -> None:
        """Wait until the job has queued itself again, and shorten the two minutes until SLURM starts it again.

        It must not start in the second in which SLURM has revoked its credential, which would revoke the new one.
        """
        self._wait(lambda: self.state == "PENDING" and self.field("Restarts") != "0", "requeue")
        self.update(f"StartTime=now+{seconds}")

    def bring_time_limit_near(self) -> None:
        """Set the time limit so that SLURM sends the signal of ``--signal=USR1@60`` within about a minute."""
        hours, minutes, _ = self.field("RunTime").rpartition("-")[2].split(":")
        self.update(f"TimeLimit={60 * int(hours) + int(minutes) + 2}")

    def update(self, setting: str) -> None:
        self.cluster.command("scontrol", "update", f"JobId={self.number}", setting)

    def send(self, name: str) -> None:
        """Send a signal to the job's processes, but not to the batch script, as SLURM does before the time limit."""
        self.cluster.command("scancel", f"--signal={name}", self.number)

    def cancel(self) -> None:
        self.cluster.command("scancel", self.number)

    def processes(self, *marks: str) -> list[int]:
        """Return the job's processes that have these environment variables."""
        return self.cluster.processes(f"SLURM_JOB_ID={self.number}", *marks)

    def rank(self, number: int) -> int:
        """Return the process of a rank."""
        return self.processes("SLURM_STEP_ID=0", f"SLURM_PROCID={number}")[0]

    def field(self, name: str) -> str:
        """Return what ``scontrol show job`` says after ``name=``."""
        found = re.search(rf"\b{name}=(\S+)", self.cluster.command("scontrol", "show", "job", self.number))
        assert found
        return found[1]

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_for(
            condition, f"{what} of job {self.number}", lambda: f"--- {self.state}\n{self.log}\n{self.cluster.log()}"
        )


def wait_for(condition: Callable[[], bool], what: str, evidence: Callable[[], str]) -> None:
    """Wait until a condition holds; show the evidence if it still does not after ten minutes."""
    end = time.monotonic() + _HANGING
    while not condition():
        assert time.monotonic() < end, f"no {what} within {_HANGING} s\n{evidence()}"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports
