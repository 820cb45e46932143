"""A Slurm cluster of one node on this machine, for tests: ``start_slurm.py start FOLDER``, ``.. stop FOLDER``.

Debian's packages ``slurm-wlm`` and ``munge``, as root; everything lies in FOLDER, and nothing but the loopback device
is used. Afterwards ``SLURM_CONF=FOLDER/slurm.conf`` makes Slurm's commands speak to it. It has no accounting, so that
sacct knows nothing, and twice as many processors as it pretends: jobs may run beside each other anywhere.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CPUS = 4
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
KillWait=10
OverTimeLimit=0
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 DefaultTime=5 State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "not root"
    absent = [name for name in (*DAEMONS, "sbatch") if shutil.which(name) is None]
    return f"no {absent[0]} here (Debian: slurm-wlm, munge)" if absent else ""


def start(folder: Path) -> Path:
    """Start all daemons and wait until the node is idle; returns the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, ports=free_ports(2), cpus=CPUS))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    parts = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    parts |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    options = [f"--{name}={path}" for name, path in parts.items()]
    daemons = [["munged", "--force", *options], ["slurmctld"], ["slurmd", "-N", host]]
    for command in daemons:
        subprocess.run(command, env=environment, check=True, timeout=30, stdout=sys.stderr)
    end = time.monotonic() + 60
    while "idle" not in asked(environment, "sinfo", "-h", "-o", "%t"):
        if time.monotonic() > end:
            raise SystemExit(f"the node does not become idle: {asked(environment, 'sinfo')}")
        time.sleep(0.2)
    return configuration


def stop(folder: Path) -> None:
    """End what was started in a folder, jobs too."""
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    asked(environment, "scancel", "--full", "--signal=KILL", "-u", "root")
    asked(environment, "scancel", "-u", "root")
    time.sleep(1.0)
    for name in reversed(DAEMONS):
        pid_file = folder / f"{name}.pid"
        if pid_file.exists():
            end_process(int(pid_file.read_text()), name)


def end_process(pid: int, name: str) -> None:
    """End a daemon of ours and wait for it."""
    comm, end = Path(f"/proc/{pid}/comm"), time.monotonic() + 10
    while comm.exists() and comm.read_text().startswith(name[:15]):
        os.kill(pid, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
        time.sleep(0.2)


def asked(environment: dict[str, str], *command: str) -> str:
    """What a command says; an empty text when it fails."""
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout
    except subprocess.SubprocessError:
        return ""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback device that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def main() -> int:
    """Start or stop."""
    what, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    if what == "stop":
        stop(folder)
    elif reason := missing():
        print(reason, file=sys.stderr)
        return 1
    else:
        print(start(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
