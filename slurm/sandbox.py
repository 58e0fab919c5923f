"""A whole Slurm on this one machine, to try `snakemake --profile slurm` where there is no cluster.

    python slurm/sandbox.py start        # a controller and two nodes, cpu1 and gpu1
    eval "$(python slurm/sandbox.py env)"
    sinfo                                # Slurm's own commands now speak with the sandbox
    python slurm/sandbox.py status
    python slurm/sandbox.py stop

Real daemons of Debian's packages slurm-wlm and munge, started as whoever calls this. All they read and write is in one
temporary folder, their ports are free ones, and no service of the system is touched. What a job asks for is enforced:
its time and its memory. The GPUs of gpu1 are device files that stand in for some, so jobs there are placed as on a
cluster and compute on the CPU.

Partitions: `cpu` (node cpu1), `gpu` (node gpu1) and `urgent` (both nodes), whose jobs take the place of jobs of the
other two, which Slurm then puts back into its queue. `start --accounting` adds Slurm's database, so that `sacct`
answers and accounts are checked (yours is `lab`); it needs the packages slurmdbd and mariadb-server too.
"""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

NODES = ("cpu1", "gpu1")
DATABASE = ("mariadbd", "slurmdbd")
DAEMONS = ("munged", *DATABASE, "slurmctld", *NODES)
# Program -> the package of Debian and Ubuntu that has it.
PACKAGES = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}
ACCOUNTING_PACKAGES = {"mariadb-install-db": "mariadb-server", "mariadbd": "mariadb-server", "slurmdbd": "slurmdbd"}
ACCOUNT = "lab"
DEVICES = ("/dev/null", "/dev/zero")

CONFIGURATION = """\
ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that was put back waits until its credential has expired: seconds here, two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log

# No rights over the system's control groups are needed: processes are found through /proc, and a job over its memory
# is seen within a second.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1

# Finished jobs stay known for a day; a line per job is kept for ever.
MinJobAge=86400
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
MpiDefault=none
ReturnToService=2
KillWait=5
OverTimeLimit=0
SlurmdTimeout=5
SlurmdParameters=config_overrides

NodeName=cpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={cpu_port} CPUs={cpus} RealMemory={memory_mib}
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu_port} CPUs={cpus} RealMemory={memory_mib} Gres=gpu:{gpus}
PartitionName=DEFAULT State=UP DefaultTime=10 MaxTime=1440 DefMemPerCPU=500
PartitionName=cpu Nodes=cpu1 Default=YES PriorityTier=1
PartitionName=gpu Nodes=gpu1 PriorityTier=1
PartitionName=urgent Nodes=cpu1,gpu1 PriorityTier=10
"""

ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
"""

DATABASE_CONFIGURATION = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""

DATABASE_USER = """\
CREATE USER IF NOT EXISTS slurm@127.0.0.1 IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO slurm@127.0.0.1;
"""


class SandboxError(Exception):
    """What keeps the sandbox from doing as asked, in one line."""


def default_folder() -> Path:
    """Where a user's sandbox is unless told otherwise."""
    return Path(tempfile.gettempdir()) / f"stainfree-slurm-{getpass.getuser()}"


class Sandbox:
    """A Slurm controller and two nodes in one folder; as a context manager, stopped and removed at the end.

    Parameters
    ----------
    folder
        Where all of it lives: new, empty, or an earlier sandbox's.
    accounting
        Whether jobs are recorded in Slurm's database, and accounts checked: this user's is ACCOUNT.
    """

    def __init__(self, folder: Path, *, accounting: bool = False) -> None:
        self.folder = folder.resolve()
        self.accounting = accounting
        self.configuration = self.folder / "slurm.conf"
        # All that a command needs in its environment to speak with this Slurm.
        self.environment = {
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{self.folder}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start all daemons and wait until both nodes take jobs.

        Raises
        ------
        SandboxError
            A package is missing, the folder holds something else, a sandbox runs in it, or a daemon does not start.
        """
        if lacking := missing_packages(accounting=self.accounting):
            raise SandboxError(f"Slurm is not complete here: apt-get install {' '.join(lacking)}")
        if self.folder.exists() and any(self.folder.iterdir()):
            if not self.configuration.is_file():
                raise SandboxError(f"{self.folder} holds other files: name an empty or a new folder with --folder")
            if running := [name for name in DAEMONS if self.pid(name)]:
                raise SandboxError(f"{self.folder} is in use ({', '.join(running)}): stop that sandbox first")
        self._write_configuration()
        self._write_commands()
        try:
            self.start_daemon("munged")
            if self.accounting:
                self._start_accounting()
            for name in ("slurmctld", *NODES):
                self.start_daemon(name)
            self._wait(lambda: self.node_states() == dict.fromkeys(NODES, "idle"), "its nodes to be idle")
        except BaseException:
            self._end_daemons()  # their logs stay
            raise

    def start_daemon(self, name: str) -> None:
        """Start one of DAEMONS, also after it was killed, and wait until it answers."""
        folder = self.folder
        command = {
            "munged": (
                f"munged --force --num-threads=2 --key-file={folder}/munge.key --seed-file={folder}/munge.seed"
                f" --socket={folder}/munge.socket --pid-file={folder}/munged.pid --log-file={folder}/munged.log"
            ),
            "mariadbd": (
                f"mariadbd --no-defaults --user={getpass.getuser()} --datadir={folder}/database"
                f" --socket={folder}/mariadbd.socket --pid-file={folder}/mariadbd.pid --log-error={folder}/mariadbd.log"
                f" --bind-address=127.0.0.1 --port={self._read_database_port()} --skip-name-resolve"
                f" --init-file={folder}/database.sql --innodb-log-file-size=16M"
            ),
            "slurmdbd": "slurmdbd",
            "slurmctld": f"slurmctld -f {folder}/slurm.conf",
            **{node: f"slurmd -N {node} -f {folder}/slurm.conf" for node in NODES},
        }[name].split()
        with (folder / f"{name}.out").open("w") as out:
            daemon = subprocess.Popen(
                [_find(command[0]) or command[0], *command[1:]],
                cwd=folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._wait(lambda: self.pid(name) is not None or daemon.poll() not in (None, 0), f"{name} to start")
        if daemon.poll() not in (None, 0):
            told = " ".join((folder / f"{name}.out").read_text().split())
            raise SandboxError(f"{name} did not start: {told} (see {folder}/{name}.log)")
        if name == "slurmctld":
            self._wait(lambda: self._ask("scontrol", "ping").returncode == 0, "its controller to answer")

    def stop(self) -> None:
        """Cancel all jobs, end the daemons and remove the folder; a sandbox that is not there is left at that."""
        if not self.configuration.is_file():
            return
        if self.pid("slurmctld"):
            self._ask("scancel", *self._ask("squeue", "--noheader", "--format=%A").stdout.split())
            self._wait(lambda: not self._ask("squeue", "--noheader").stdout.strip(), "its jobs to end", fail=False)
        self._end_daemons()
        shutil.rmtree(self.folder)

    def _end_daemons(self) -> None:
        """End all daemons, those first that lean on others."""
        for name in reversed(DAEMONS):
            if pid := self.pid(name):
                os.kill(pid, signal.SIGTERM)
                if not self._wait(lambda name=name: self.pid(name) is None, f"{name} to end", fail=False):
                    os.kill(pid, signal.SIGKILL)

    def pid(self, name: str) -> int | None:
        """Process id of one of DAEMONS, None where it does not run."""
        try:
            pid = int((self.folder / f"{name}.pid").read_text())
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except (OSError, ValueError):
            return None
        # The number may belong to another program by now, also to another sandbox's.
        return pid if f"SLURM_CONF={self.configuration}\0".encode() in environment else None

    def node_states(self) -> dict[str, str]:
        """State of each node in Slurm's words, such as `idle` or `mixed`; empty where no controller answers."""
        told = self._ask("sinfo", "--noheader", "--Node", "--format=%N %T").stdout.split()
        return dict(zip(told[::2], told[1::2], strict=True))

    def _write_configuration(self) -> None:
        """Write Slurm's configuration and a key of its own for munge."""
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        # Every user of the machine may knock at munge's socket; the key is for its owner alone.
        self.folder.chmod(0o755)
        _write_secret(self.folder / "munge.key", secrets.token_hex(64))
        ports = ("controller_port", "cpu_port", "gpu_port", "accounting_port", "database_port")
        values = {
            **dict(zip(ports, _free_ports(len(ports)), strict=True)),
            "host": socket.gethostname().split(".")[0],
            "user": getpass.getuser(),
            "folder": self.folder,
            "cpus": os.cpu_count(),
            # Each node has all cores, for both are seldom busy at once, but memory is never promised twice.
            "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // len(NODES),
            "gpus": len(DEVICES),
            "password": secrets.token_hex(16),
        }
        devices = "".join(f"NodeName=gpu1 Name=gpu File={device}\n" for device in DEVICES)
        (self.folder / "gres.conf").write_text(devices)
        if self.accounting:
            _write_secret(self.folder / "slurmdbd.conf", DATABASE_CONFIGURATION.format(**values))
            _write_secret(self.folder / "database.sql", DATABASE_USER.format(**values))
        self.configuration.write_text((CONFIGURATION + ACCOUNTING * self.accounting).format(**values))

    def _start_accounting(self) -> None:
        """Start the database and Slurm's daemon before it, and let this user submit under ACCOUNT."""
        if not (self.folder / "database").exists():
            told = subprocess.run(
                [
                    *("mariadb-install-db", "--no-defaults", f"--user={getpass.getuser()}", "--skip-test-db"),
                    *(f"--datadir={self.folder}/database", "--auth-root-authentication-method=normal"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if told.returncode:
                raise SandboxError(f"mariadb-install-db failed: {' '.join((told.stderr or told.stdout).split())}")
        self.start_daemon("mariadbd")
        self.start_daemon("slurmdbd")
        self._wait(lambda: self._ask("sacctmgr", "--noheader", "list", "cluster").returncode == 0, "its database")
        for what in ("cluster sandbox", f"account {ACCOUNT}", f"user {getpass.getuser()} account={ACCOUNT}"):
            self._ask("sacctmgr", "--immediate", "add", *what.split())

    def _read_database_port(self) -> str:
        """Port of the database, from its only record; empty where there is no accounting."""
        path = self.folder / "slurmdbd.conf"
        lines = path.read_text().splitlines() if path.is_file() else []
        return next((line.split("=")[1] for line in lines if line.startswith("StoragePort=")), "")

    def _write_commands(self) -> None:
        """Write Slurm's commands that know the way: inside a job, Snakemake's plugin calls them without SLURM_CONF."""
        (self.folder / "bin").mkdir(exist_ok=True)
        for name in ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun", "sshare"):
            command = self.folder / "bin" / name
            command.write_text(f'#!/bin/sh\nSLURM_CONF="{self.configuration}" exec "{_find(name)}" "$@"\n')
            command.chmod(0o755)

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands against this sandbox."""
        return subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )

    def _wait(self, done: Callable[[], bool], what: str, *, fail: bool = True, seconds: float = 30) -> bool:
        """Wait until `done`; past the time, tell False or fail."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                if fail:
                    raise SandboxError(f"waited {seconds:g} s for {what}; its logs are in {self.folder}")
                return False
            time.sleep(0.1)
        return True


def missing_packages(*, accounting: bool = False) -> list[str]:
    """Packages of Debian that a sandbox needs and this machine lacks."""
    needed = {**PACKAGES, **(ACCOUNTING_PACKAGES if accounting else {})}
    return sorted({package for program, package in needed.items() if _find(program) is None})


def _find(program: str) -> str | None:
    """Path of a program: where Debian puts it, an ordinary user's PATH or not, and not another sandbox's."""
    return shutil.which(program, path=f"/usr/bin:/usr/sbin:{os.environ.get('PATH', '')}")


def _write_secret(path: Path, text: str) -> None:
    """Write a file that its owner alone may read."""
    path.touch(0o600)
    path.chmod(0o600)
    path.write_text(text)


def _free_ports(n: int) -> list[int]:
    """`n` ports that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "status", "env", "stop"])
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where it lives (default: %(default)s)")
    parser.add_argument(
        "--accounting", action="store_true", help="start: with Slurm's database, for sacct and accounts"
    )
    arguments = parser.parse_args()
    sandbox = Sandbox(arguments.folder, accounting=arguments.accounting)
    if arguments.action == "start":
        try:
            sandbox.start()
        except SandboxError as error:
            sys.exit(f"Error: {error}")
        where = "" if arguments.folder == default_folder() else f" --folder {arguments.folder}"
        print(f'Slurm runs in {sandbox.folder}. Next: eval "$(python slurm/sandbox.py env{where})"')
    elif arguments.action == "stop":
        sandbox.stop()
    elif arguments.action == "env":
        for name, value in sandbox.environment.items():
            print(f"export {name}='{value}'")
    else:
        for name in DAEMONS:
            if (pid := sandbox.pid(name)) or name not in DATABASE:
                print(f"{name:10} {f'runs as process {pid}' if pid else 'does not run'}")
        for node, state in sandbox.node_states().items():
            print(f"{node:10} {state}")
        sys.exit(0 if sandbox.node_states() else 1)


if __name__ == "__main__":
    main()
