#!/usr/bin/env bash
# UCF to HMDB: V-JEPA: published 51.75 (top-1 accuracy; best epoch on test),
# release README, results table, column V-JEPA; there: bash configs/vjepa/ucfhmdb.bash
# Cost: 2,638 clips, ~7,520 windows, about 21 GB to fetch, 10 min on a GPU (assumed: configs/plan.yaml); `repro plan ucf_hmdb_vjepa` says more.
# `repro ucf_hmdb_vjepa` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch vjepa

# The data, in their owners' layout. docs/data.md says what lies where.
repro fetch ucf101
repro fetch hmdb51
repro data prepare ucf101
repro data prepare hmdb51

# Features of every clip the row reads.
repro extract ucf101/train --backbone vjepa
repro extract hmdb51/full --backbone vjepa

# The readout, one a seed, each with its run record.
repro readout ucf_hmdb_vjepa --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
