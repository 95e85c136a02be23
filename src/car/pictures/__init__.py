"""Picture files and their metadata."""
