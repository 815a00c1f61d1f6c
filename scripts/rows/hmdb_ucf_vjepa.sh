#!/usr/bin/env bash
# HMDB to UCF: V-JEPA: published 60.58 (top-1 accuracy; best epoch on test),
# release README, results table, column V-JEPA; there: bash configs/vjepa/hmdbucf.bash
# Cost: 2,849 clips, ~8,770 windows, about 21 GB to fetch, 12 min on a GPU (assumed: configs/plan.yaml); `repro plan hmdb_ucf_vjepa` says more.
# `repro hmdb_ucf_vjepa` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch vjepa

# The data, in their owners' layout. docs/data.md says what lies where.
repro fetch hmdb51
repro fetch ucf101
repro data prepare hmdb51
repro data prepare ucf101

# Features of every clip the row reads.
repro extract hmdb51/train --backbone vjepa
repro extract ucf101/full --backbone vjepa

# The readout, one a seed, each with its run record.
repro readout hmdb_ucf_vjepa --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
