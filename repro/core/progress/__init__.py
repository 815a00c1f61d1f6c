"""Progress of long work: its stages, their measured speed, and files that show it to others."""
