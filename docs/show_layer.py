"""The code on the page "Looking inside a network", which also draws the image there."""

from transferkit import FeatureExtractor
from transferkit.demo import CAT

fx = FeatureExtractor("mobilenet_v2")
image = fx.show_layer(CAT, "features.3")
image.save("features.3.png")
