"""Findings of an ablation study: its cells over seeds, what is claimed of them, tables, figures and the report."""
