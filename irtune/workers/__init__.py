"""Where a trial runs: cluster, nodes, storage, worker groups."""
