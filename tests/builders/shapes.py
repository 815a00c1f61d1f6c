"""How the tests check the annotations of `repro`: shapes by jaxtyping, types by beartype, an int being a float too."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
