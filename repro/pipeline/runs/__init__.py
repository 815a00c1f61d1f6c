"""From stored features to one run record a seed."""
