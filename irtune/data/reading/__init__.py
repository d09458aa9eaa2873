"""From users' files to tables of cells: one file per kind of container, and what is recognised in them."""
