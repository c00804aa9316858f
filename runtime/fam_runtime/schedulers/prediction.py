"""The data prediction D (the x0 that the model sees) from the model output."""

from __future__ import annotations

from fam_runtime.errors import InvalidRequest
from fam_runtime.schedulers.noise_schedule import PredictionType


def data_prediction(
    prediction_type: PredictionType, alpha: float, sigma: float
) -> tuple[float, float]:
    """Return (d, e) with `D = d z + e m` for a latent `z = alpha x0 + sigma eps`.

    With alpha^2 + sigma^2 = 1:

        epsilon       m = eps:                   D = (z - sigma m) / alpha
        v_prediction  m = alpha eps - sigma x0:  D = alpha z - sigma m
        sample        m = x0:                    D = m

    Raises:
        InvalidRequest: epsilon prediction where there is no signal (alpha = 0).
    """
    if prediction_type == "v_prediction":
        return alpha, -sigma
    if prediction_type == "sample":
        return 0.0, 1.0
    if alpha == 0:
        raise InvalidRequest(
            "epsilon prediction has no data prediction at zero signal-to-noise ratio",
            got="rescale_betas_zero_snr with prediction_type epsilon",
            expected="prediction_type v_prediction",
            fix="correct the checkpoint's scheduler_config.json and export again, or "
            "use --scheduler euler",
        )
    return 1.0 / alpha, -sigma / alpha
