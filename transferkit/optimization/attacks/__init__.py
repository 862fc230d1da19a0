"""Adversarial attacks: minimal perturbations of images that change the predicted class.

`Attack` is the interface of a method, and the base class of custom ones. The built-in methods are
modules of ``methods``; `attack_methods` lists them.
"""

from transferkit.optimization.attacks.base import Attack, AttackBatch
from transferkit.optimization.attacks.methods import attack_methods, find_attack_class

__all__ = ["Attack", "AttackBatch", "attack_methods", "find_attack_class"]
