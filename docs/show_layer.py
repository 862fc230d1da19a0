"""The code on the page "Looking inside", which also makes the picture there."""

from transferkit import FeatureExtractor
from transferkit.demo import CAT

fx = FeatureExtractor("mobilenet_v2")
picture = fx.show_layer(CAT, "features.3")
picture.save("features.3.png")
