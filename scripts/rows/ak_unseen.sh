#!/usr/bin/env bash
# Animal Kingdom, unseen species: ActionDiff: published 51.49 (top-1 accuracy; best cell and epoch on test),
# release README, results table, column ActionDiff; there: bash configs/transformergrid/akunseen.bash
# Cost: 5,749 clips, ~11,300 windows, about 25 GB to fetch, 17.3 h on a GPU (assumed: configs/plan.yaml); `repro plan ak_unseen` says more.
# `repro ak_unseen` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch svd_xt

# The data, in their owners' layout. Their owners give them on request: `repro fetch animal_kingdom` says how.
repro data prepare animal_kingdom

# Features of every clip the row reads.
repro extract animal_kingdom/unseen_species_train --backbone svd_xt --timesteps 20 --layers 9
repro extract animal_kingdom/unseen_species_test --backbone svd_xt --timesteps 20 --layers 9

# The readout, one a seed, each with its run record.
repro readout ak_unseen --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
