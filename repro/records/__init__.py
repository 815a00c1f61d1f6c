"""Run records, and MLflow as a view of them."""
