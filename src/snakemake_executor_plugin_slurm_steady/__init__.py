"""The executor of `slurm/config.yaml`: Snakemake's plugin for Slurm, which looks at jobs at a steady pace.

The plugin itself puts every look that finds no job finished 10 s further off than the one before, up to 3 minutes, and
a failure counts as none. A job of a few seconds is then found finished half a minute late, and a run that failed ends
as late. Here Snakemake's own `--seconds-between-status-checks` holds. A look is one `squeue` (or `sacct`) for all jobs
of the run, so it costs the controller the same for one job as for a thousand.

Settings are the plugin's, with this one's name before them: `--slurm-steady-requeue`.
"""

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm import ExecutorSettings, common_settings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


class Executor(SlurmExecutor):  # type: ignore[misc]  # the plugin has no types
    """The plugin's executor without its growing pauses."""

    @property
    def next_seconds_between_status_checks(self) -> int:
        """Seconds until the next look, as the user set them."""
        return self.workflow.remote_execution_settings.seconds_between_status_checks

    @next_seconds_between_status_checks.setter
    def next_seconds_between_status_checks(self, value: int) -> None:
        """Take no notice of the pause that the plugin asks for."""
