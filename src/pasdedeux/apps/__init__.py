"""Thin skins over Job and Engine."""
