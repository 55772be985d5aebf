from tests.encoder.encoder_cases import build, encoder, packed

__all__ = ["build", "encoder", "packed"]
