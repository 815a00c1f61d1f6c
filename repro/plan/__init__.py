"""What rows would take in this workspace: bytes, clips, windows, hours, disk, and what exists already.

amounts.py numbers that are known or estimated; reckoning.py configs/plan.yaml; lengths.py from clips to windows;
here.py what the workspace holds; counting.py splits as they are here; downloads.py what is to be brought; making.py the
plan; figures.py it as JSON. Nothing is written and no torch imported.
"""
