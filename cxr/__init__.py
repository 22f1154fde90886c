"""Chest X-rays: from a folder of radiographs to a trained, measured and explained network."""
