"""The k best of up to 50 million classes: exactly, nearly, and as the published code finds them."""
