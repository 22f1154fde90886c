"""Augmentation: layers that make another film of the same chest."""

import math

import keras
from keras import layers


class RandomChange(layers.Layer):
    """A change of pictures, float (n, height, width, 1) of 0–1, drawn anew for each; in training only. Strength 0: no change."""

    def __init__(self, strength=1.0, **rest):
        super().__init__(dtype="float32", **rest)
        self.strength, self.generator = strength, keras.random.SeedGenerator()

    def draw(self, x, low, high):
        """Return uniform random numbers, (n, 1, 1, 1), between low and high times the strength."""
        return self.strength * keras.random.uniform((keras.ops.shape(x)[0], 1, 1, 1), low, high, seed=self.generator)

    def call(self, x, training=False):
        return self.change(x) if training and self.strength else x


class RandomPose(RandomChange):
    """Turns by up to 12 degrees, zooms between 0.75 and 1.6, stretches by up to 1.35, shifts by up to a tenth, in one step."""

    def change(self, x):
        height, width = x.shape[1:3]
        turn, zoom = self.draw(x, -math.pi / 15, math.pi / 15), self.draw(x, -0.15, 0.35)
        stretch, right, down = self.draw(x, -0.15, 0.15), self.draw(x, -0.1, 0.1) * width, self.draw(x, -0.1, 0.1) * height
        across, along = keras.ops.exp(stretch - zoom), keras.ops.exp(-stretch - zoom)
        a, b = across * keras.ops.cos(turn), -along * keras.ops.sin(turn)
        c, d = across * keras.ops.sin(turn), along * keras.ops.cos(turn)
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2  # which stays where it is, but for the shift
        none = keras.ops.zeros_like(turn)
        rows = [a, b, middle_x - a * middle_x - b * middle_y + right, c, d, middle_y - c * middle_x - d * middle_y + down, none, none]
        return keras.ops.image.affine_transform(x, keras.ops.concatenate(rows, 1)[:, :, 0, 0], fill_mode="reflect")


class RandomExposure(RandomChange):
    """Changes gamma by a factor of up to 2, contrast by up to 1.6, and brightness by up to a quarter of the range."""

    def change(self, x):
        x = keras.ops.power(keras.ops.clip(x, 1e-4, 1), keras.ops.exp(self.draw(x, -0.7, 0.7)))
        mean = keras.ops.mean(x, axis=(1, 2, 3), keepdims=True)
        return (x - mean) * keras.ops.exp(self.draw(x, -0.5, 0.5)) + mean + self.draw(x, -0.25, 0.25)


class RandomTexture(RandomChange):
    """Sharpens or blurs, by a mean over 5 × 5 pixels, and adds noise with a standard deviation of up to 0.06."""

    def change(self, x):
        x += self.draw(x, -0.6, 1) * (keras.ops.average_pool(x, 5, 1, padding="same") - x)
        return x + self.draw(x, 0, 0.06) * keras.random.normal(keras.ops.shape(x), seed=self.generator)


def build_augmentation(pose: float = 1.0, exposure: float = 1.0, texture: float = 1.0, flip: bool = False) -> keras.Sequential:
    """Return layers that make another film of each picture, grey levels 0–255, in training only."""
    changes = [RandomPose(pose), RandomExposure(exposure), RandomTexture(texture)]
    mirror = [layers.RandomFlip("horizontal", dtype="float32")] if flip else []
    end = [layers.ReLU(max_value=1.0, dtype="float32", name="clip"), layers.Rescaling(255, dtype="float32", name="to_0_255")]
    return keras.Sequential([layers.Rescaling(1 / 255, dtype="float32", name="to_0_1"), *mirror, *changes, *end], name="augmentation")


def augment(network: keras.Model, *strengths) -> keras.Sequential:
    """Return a model for training: a network behind an augmentation. They share the weights; what is saved is the network."""
    return keras.Sequential([keras.Input(network.input_shape[1:]), build_augmentation(*strengths), network], name="training")
