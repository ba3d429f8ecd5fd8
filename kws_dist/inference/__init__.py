"""A trained run as a thing to use.

from kws_dist import inference

spotter = inference.load("runs/mine")
prediction = spotter.predict(wave, sample_rate_hz)
print(prediction.word, prediction.score)
"""

from kws_dist.inference.prediction import Prediction, Window
from kws_dist.inference.predictor import Predictor, load

__all__ = ["Prediction", "Predictor", "Window", "load"]
