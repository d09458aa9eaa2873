"""Resources that a dead worker group still reserves.

Where the process that leads a worker group is killed, nobody gives back its placement group: Ray Train's own helper for
that asks the dashboard who is alive, which a sweep's own Ray does without.
"""

import ray
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from irtune.workers.cluster import HEAD_NODE


def own_placement_group() -> str | None:
    """The id of the placement group that this process runs in."""
    group = get_current_placement_group()
    return None if group is None else group.id.hex()


def remove(group_id: str) -> None:
    """Give back what a placement group reserves; one that is gone already is left alone."""
    if ray.util.placement_group_table().get(group_id, {}).get("state", "REMOVED") != "REMOVED":
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))


def remove_worker_groups() -> None:
    """Give back what all worker groups of this job reserve; trials' own processes, on the head node, keep theirs."""
    job = ray.get_runtime_context().get_job_id()
    for group_id, group in ray.util.placement_group_table().items():
        # The last bytes of the id are those of its job.
        if group_id.endswith(job) and not any(set(bundle) <= set(HEAD_NODE) for bundle in group["bundles"].values()):
            remove(group_id)
