"""A trial of a sweep that is trained again by itself is the same, to the bit."""

from pathlib import Path

from sweeps import SweepRun, run_sweep

from irtune.studies.recorded import find_trial


def test_a_trial_trained_again_is_the_same(tiny_sweep: SweepRun, tmp_path: Path) -> None:
    before = find_trial(str(tiny_sweep.folder), tmp_path)
    again = run_sweep(tmp_path / "own", "--from", str(tiny_sweep.folder), job="train.py")

    assert again.status == 0, again.output
    assert f"tiny-{before.name}" in again.folder.name
    (run,) = again.runs()
    assert run.info.status == "FINISHED"
    scores = {name: value for name, value in before.latest.items() if name.startswith("final/")}
    assert scores == {name: run.data.metrics[name] for name in scores}
    assert (again.folder / "trials" / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert "the sweep" not in again.output.split("Predicted and actual")[1].split("Look at it")[0]
    assert f"{before.latest['final/test_f1_macro']:.3f} on test" in again.output
