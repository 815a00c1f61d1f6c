# What a job costs over SLURM, in place of what Snakemake's plugin does by itself. Nothing here runs with other executors.
import shlex
import sys


def write_job_script(executor, job):
    """Return the script that SLURM runs: the rule's command as a step, which SLURM signals when it preempts the job."""
    folders = sorted({str(Path(name).parent) for name in (*job.output, *job.log)})
    # Files that another machine wrote may be seen late.
    unseen = " || ".join(f"[ ! -e {shlex.quote(str(name))} ]" for name in job.input) or "false"
    wait = workflow.execution_settings.latency_wait
    threads = f"OMP_NUM_THREADS={job.threads} MKL_NUM_THREADS={job.threads} OPENBLAS_NUM_THREADS={job.threads}"
    return f"""
cd {shlex.quote(str(Path.cwd()))} && mkdir -p {shlex.join(folders)} || exit 1
seconds=0
while {unseen}; do
    [ $seconds -lt {wait} ] || {{ echo "input files are missing after {wait} s" >&2; exit 1; }}
    sleep 1
    seconds=$((seconds + 1))
done
# The step's options below are all: variables of the allocation may contradict them.
unset $(env | grep -oE '^S(LURM|RUN|BATCH)_[A-Z_]+' | grep -vxE 'SLURM_(CONF|JOB_?ID|CLUSTER_NAME|SUBMIT_.*)')
srun --ntasks=1 --nodes=1 --cpu-bind=q --cpus-per-task={job.threads} \\
    env {threads} bash -euo pipefail -c {shlex.quote(job.shellcmd)}
code=$?
# SIGTERM: SLURM ends this job, and starts it again if another one preempted it; had it ended by itself, it would have failed.
[ $code != 143 ] || sleep 600
exit $code
"""


if slurm := sys.modules.get("snakemake_executor_plugin_slurm"):
    # By itself, the plugin waits 10 s more after each look at jobs of which none has ended, up to 3 minutes, whatever
    # --seconds-between-status-checks says: each step would start that much later.
    slurm.Executor.next_seconds_between_status_checks = property(
        lambda executor: executor.workflow.remote_execution_settings.seconds_between_status_checks,
        lambda executor, seconds: None,
    )
    # By itself, every job starts Snakemake twice before its command: some 5 s of a processor. The coordinator checks and keeps what
    # jobs wrote in either case. In an image, Snakemake composes the command.
    if workflow.is_main_process and not workflow.deployment_settings.deployment_method:
        format_job_exec = slurm.Executor.format_job_exec
        slurm.Executor.format_job_exec = lambda executor, job: (
            write_job_script(executor, job)
            if executor.executor_settings.pass_command_as_script
            and not executor.executor_settings.array_jobs
            and not job.is_group()
            else format_job_exec(executor, job)
        )
