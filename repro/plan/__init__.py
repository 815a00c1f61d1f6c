"""What rows would take in this workspace: bytes, clips, windows, hours, disk, and what exists already.

amounts.py numbers that are counted or estimated; workspace_state.py what the workspace has; windows.py clips, windows and
vectors of splits; downloads.py what must be downloaded; plan.py the plan; figures.py its sums, and the plan as JSON. Nothing is written and no torch imported.
"""
