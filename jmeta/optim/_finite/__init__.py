"""Derivatives of an optax update that stay finite where a slope is infinite."""
