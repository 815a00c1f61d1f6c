#!/usr/bin/env bash
# Charades-Ego, first person to first person: VideoMAEv2: published 16.9 (micro-averaged mAP; best epoch on test),
# release README, results table, column VideoMAEv2; there: bash configs/videoMAE/charades1-1.bash
# Cost: 3,931 clips, ~54,200 windows, about 15 GB to fetch, 2.6 h on a GPU (assumed: configs/plan.yaml); `repro plan charades_1to1_videomaev2` says more.
# `repro charades_1to1_videomaev2` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch videomaev2

# The data, in their owners' layout. docs/data.md says what lies where.
repro fetch charades_ego
repro data prepare charades_ego

# Features of every clip the row reads.
repro extract charades_ego/first_train --backbone videomaev2
repro extract charades_ego/first_test --backbone videomaev2

# The readout, one a seed, each with its run record.
repro readout charades_1to1_videomaev2 --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
