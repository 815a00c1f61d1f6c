#!/usr/bin/env bash
# Charades-Ego, third person to first person: V-JEPA: published 17.3 (micro-averaged mAP; best epoch on test),
# release README, results table, column V-JEPA; there: bash configs/vjepa/charades3-1.bash
# Cost: ~3,930 clips, ~54,100 windows, about 21 GB to fetch, 72 min on a GPU (assumed: configs/plan.yaml); `repro plan charades_3to1_vjepa` says more.
# `repro charades_3to1_vjepa` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch vjepa

# The data, in their owners' layout. docs/data.md says what lies where.
repro fetch charades_ego
repro data prepare charades_ego

# Features of every clip the row reads.
repro extract charades_ego/third_train --backbone vjepa
repro extract charades_ego/first_test --backbone vjepa

# The readout, one a seed, each with its run record.
repro readout charades_3to1_vjepa --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
