"""Pictures through a model, of any size."""
