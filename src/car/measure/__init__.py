"""What a model does to pictures, in numbers, plots and pages."""
