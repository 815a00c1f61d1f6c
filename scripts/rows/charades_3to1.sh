#!/usr/bin/env bash
# Charades-Ego, third person to first person: ActionDiff: published 30.2 (micro-averaged mAP; best cell and epoch on test),
# release README, results table, column ActionDiff; there: bash configs/transformergrid/charades3-1.bash
# Cost: ~3,930 clips, ~35,400 windows, about 21 GB to fetch, 54 h on a GPU (assumed: configs/plan.yaml); `repro plan charades_3to1` says more.
# `repro charades_3to1` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch svd_xt

# The data, in their owners' layout. docs/data.md says what lies where.
repro fetch charades_ego
repro data prepare charades_ego

# Features of every clip the row reads.
repro extract charades_ego/third_train --backbone svd_xt --timesteps 20 --layers 9
repro extract charades_ego/first_test --backbone svd_xt --timesteps 20 --layers 9

# The readout, one a seed, each with its run record.
repro readout charades_3to1 --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
