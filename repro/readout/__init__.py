"""The readout: a small transformer trained on frozen features, as the release's models/Transformer.py and scripts/train.py.

sequences.py features of a split, batched; draws.py what a training draws at random; held_out.py the honest protocol's part;
transformer.py and head.py the models; losses.py; schedule.py the learning rate; compute.py device and precision;
train.py the loop; keeping.py and checkpoints.py what it leaves on disk; scores.py the metrics, guessers.py their floor;
predictions.py and intervals.py what is made of per-clip scores; stage.py all of it for a row; trained.py a readout to use.
"""
