"""The smoke job: clips the project renders itself through every stage of a row, small, offline, on a CPU.

clips.py renders the scenes of repro/video/synthetic and encodes them as H.264 files; golden.py has the values that must be
repeated; job.py runs the stages.
"""
