#include "schedulers/prediction.h"

#include "base/error.h"

namespace libfam {

DataPrediction data_prediction(PredictionType prediction_type, double alpha, double sigma) {
  if (prediction_type == PredictionType::v_prediction) return {alpha, -sigma};
  if (prediction_type == PredictionType::sample) return {0.0, 1.0};
  if (alpha == 0) {
    throw Error(ErrorCode::invalid_request,
                {.what = "epsilon prediction has no data prediction at zero signal-to-noise ratio",
                 .got = repr("rescale_betas_zero_snr with prediction_type epsilon"),
                 .expected = "prediction_type v_prediction",
                 .fix = "correct the checkpoint's scheduler_config.json and export again, or "
                        "use --scheduler euler"});
  }
  return {1.0 / alpha, -sigma / alpha};
}

}  // namespace libfam
