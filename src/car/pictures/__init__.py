"""Picture files and what they say about themselves."""
