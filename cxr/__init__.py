"""Chest X-rays: from a folder of radiographs to a trained and evaluated network."""
