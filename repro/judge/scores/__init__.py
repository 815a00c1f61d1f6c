"""What is behind a row's score, and how closely its test clips pin it."""
