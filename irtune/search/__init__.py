"""What to try next: spaces, samplers, sources of trials, stopping."""
