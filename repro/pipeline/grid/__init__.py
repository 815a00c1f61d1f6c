"""A readout at every timestep and layer."""
