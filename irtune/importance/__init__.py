"""What a block's score is: one file a signal, and the aggregations that make a score of many norms."""

from irtune.importance.activation_energy import ActivationEnergy
from irtune.importance.cka_distance import CkaDistance
from irtune.importance.cosine_similarity import CosineSimilarity
from irtune.importance.gradient_norm import GradientNorm
from irtune.importance.outlier_ratio import OutlierRatio
from irtune.importance.relative_gradient_norm import RelativeGradientNorm
from irtune.importance.residual_norm import ResidualNorm
from irtune.importance.signal import Gradient, Importance, ImportanceSignal, Token
from irtune.importance.signal_to_noise import SignalToNoise
from irtune.importance.weight_norm import WeightNorm

SIGNALS: dict[str, type[ImportanceSignal]] = {
    signal.model_fields["name"].default: signal
    for signal in (
        GradientNorm,
        RelativeGradientNorm,
        ResidualNorm,
        CosineSimilarity,
        CkaDistance,
        ActivationEnergy,
        WeightNorm,
        OutlierRatio,
        SignalToNoise,
    )
}

__all__ = ["SIGNALS", "Gradient", "GradientNorm", "Importance", "ImportanceSignal", "Token"]
