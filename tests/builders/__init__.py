"""What tests share: small data sets, checkpoints, servers and records made on the fly."""

from builders import shapes as shapes  # jaxtyping's plugin looks `builders.shapes.checked` up as an attribute
