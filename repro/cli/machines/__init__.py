"""Commands about machines: a module each."""
