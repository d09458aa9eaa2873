"""What an ablation study found: its cells over seeds, what is claimed of them, tables, figures and the report."""
