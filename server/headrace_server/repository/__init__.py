"""Repository: the models this daemon holds, and their states."""
