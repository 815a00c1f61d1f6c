"""The smoke job: clips the project renders itself through every stage of a row, small, offline, on a CPU.

figures.py bodies and actions; scenes.py who does what where, and its pictures; clips.py H.264 files of them;
golden.py the values it must repeat; job.py the job.
"""
