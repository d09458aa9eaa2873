"""Studies on storage, by their records alone: looked at, sent elsewhere, reported together, used."""
