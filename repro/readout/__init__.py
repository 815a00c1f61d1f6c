"""The readout: a small classifier trained on frozen features, as the release's scripts/train.py.

It knows no row, run record or workspace, so that it can be used as a library:

    recipe       the settings of a training
    sequences    feature sequences of a split, and the batches of an epoch
    heads        the transformer and the linear head
    train        losses, learning rate and the training loop
    compute      device, precision, threads
    held_out     the validation part of the held-out protocol
    metrics      scores, and those of predictors that see no feature
    checkpoints  weights and training state on disk
    predictions  per-clip scores on disk
    trained      a trained readout, loaded to score new clips
"""
