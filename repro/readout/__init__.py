"""The readout: a small classifier trained on frozen features, as the release's scripts/train.py.

It knows no row, run record or workspace, so that it can be used as a library:

    recipe       the settings of a training
    sequences    feature sequences of a split, the batches of an epoch, and the part that the held-out protocol holds out
    heads        the transformer and the linear head
    optimisation losses, optimizer and learning rate
    train        the training loop
    compute      device, precision, threads
    metrics      scores, and those of predictors that see no feature
    checkpoints  weights and training state on disk
    predictions  per-clip scores on disk
    trained      a trained readout, loaded to score new clips
"""
