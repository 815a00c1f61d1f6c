"""What rows would take in this workspace: bytes, clips, windows, hours, disk, and what exists already.

amounts.py numbers that are counted or estimated; workspace_state.py what the workspace has; windows.py clips, windows and
vectors of splits; downloads.py what must be downloaded; plan.py the plan; passes.py its passes
over clips; figures.py its sums, and the plan as JSON; steps.py the plan as commands; submission.py the workflow that runs them;
processes.py a process for each device; doctor/ whether this machine can run a row. No torch is imported.
"""
