"""Command lines of the project, thin: each reads what was typed and calls what does the work."""
