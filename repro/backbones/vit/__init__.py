"""Video vision transformers as frozen feature extractors: the families vjepa and videomaev2.

family.py      the two families: how their backbones are opened, verified, cut from the publisher's file
config.py      what a config contains, and how clips become sequences
checkpoint.py  the publisher's file: finding the encoder in it, checking its tensors; random weights in its layout
pictures.py    frames to pixels
encoder.py     the interface to an encoder, and its tokens layer by layer
vjepa.py, videomaev2.py  the two encoders
extractor.py   a clip's windows to vectors
verify.py      comparisons with golden values, and of ways of computing with each other
"""
