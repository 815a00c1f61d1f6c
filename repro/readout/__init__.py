"""The readout: a small transformer trained on frozen features, as the release's models/Transformer.py and scripts/train.py.

sequences.py features of a split, batched; transformer.py the model; losses.py; schedule.py the learning rate;
train.py the loop; scores.py the metrics.
"""
