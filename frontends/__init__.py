"""Frontends: how models and calibration data come in."""
