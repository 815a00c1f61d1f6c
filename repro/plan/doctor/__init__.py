"""Whether this machine can run a row: small checks, each of which reports what it found and what to do.

finding.py what a check reports, and what it is given; software.py, gpu.py, folders.py, network.py and needs.py the checks;
probes.py what is tried in a process of its own, because it may crash, hang or take seconds; examine.py runs all of them.
Nothing is left in the workspace, and no connection is opened.
"""
