// The data prediction D (the x0 that the model sees) from the model output.
#pragma once

#include "schedulers/noise_schedule.h"

namespace libfam {

// `D = from_latent z + from_output m`
struct DataPrediction {
  double from_latent;
  double from_output;
};

// For a latent `z = alpha x0 + sigma eps` with alpha^2 + sigma^2 = 1:
//
//     epsilon       m = eps:                   D = (z - sigma m) / alpha
//     v_prediction  m = alpha eps - sigma x0:  D = alpha z - sigma m
//     sample        m = x0:                    D = m
//
// Raises: Error(invalid_request) for epsilon prediction where there is no signal (alpha = 0).
DataPrediction data_prediction(PredictionType prediction_type, double alpha, double sigma);

}  // namespace libfam
